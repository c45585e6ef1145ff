"""The renderer: seeds decide everything, splits share nobody, controls are the motion room's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dreamactor.errors import InputError
from dreamactor.motion.draw import draw_controls
from dreamactor.motion.pose import INDEX
from dreamactor.motion.retarget import SCALES
from dreamactor.training.assets import mocap_folder
from dreamactor.training.characters.character import make_character
from dreamactor.training.characters.clip import REFERENCES, extremes, make_clip
from dreamactor.training.characters.mocap import SPLITS
from dreamactor.training.characters.paint_head import face_texture
from dreamactor.training.characters.scene import SPLIT_SEEDS, Scenes, face_crop, pose_sequence, render_frame


def test_a_seed_gives_the_same_clip_and_another_seed_another(scenes: Scenes) -> None:
    first, again, other = (make_clip(scenes, seed, 5) for seed in (7, 7, 8))
    for name in ("frames", "controls", "faces", "references", "reference_controls", "heads", "mouths", "expressions"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name), name)
    assert not np.array_equal(first.frames, other.frames)


def test_splits_share_no_character_and_no_motion() -> None:
    names = [name for split in SPLITS.values() for name in split]
    assert len(names) == len(set(names))
    bases = sorted(SPLIT_SEEDS.values())
    assert min(np.diff(bases)) >= 10_000_000  # clips use seeds up to 5 million above their index
    assert make_character(SPLIT_SEEDS["train"] + 1) != make_character(SPLIT_SEEDS["test"] + 1)


def test_framings_show_what_they_are_called(scenes: Scenes) -> None:
    heights = {}
    for framing in SCALES:
        poses = pose_sequence(scenes.scene(3, 3, framing))
        heights[framing] = float(poses.head_radius[0])
        if framing == "full":
            assert (poses.joints[:, :, 1] > 0).all()
            assert (poses.joints[:, :, 1] < 128).all()
    assert heights["face"] > heights["half"] > heights["full"]


def test_unknown_split_and_framing_are_named() -> None:
    with pytest.raises(InputError, match="train, val, test"):
        Scenes("training", mocap_folder(), 64, 64, 12)
    with pytest.raises(InputError, match="face, half, full"):
        Scenes("train", mocap_folder(), 64, 64, 12).scene(0, 2, "portrait")


def test_reference_controls_are_drawn_by_the_motion_code(scenes: Scenes) -> None:
    clip, scene = make_clip(scenes, 4, 5, "full"), scenes.scene(4, 5, "full")
    drawn = draw_controls(pose_sequence(scene), 128, 128)
    for place, frame in enumerate(extremes(scene)):
        assert np.array_equal(clip.reference_controls[place], drawn[frame])
        assert np.array_equal(clip.references[place], render_frame(scene, frame))
    assert len(clip.references) == REFERENCES


def test_joints_lie_on_the_person(scenes: Scenes) -> None:
    """The picture without the person differs at the joints that are inside it."""
    scene = scenes.scene(12, 2, "half")
    frame, poses = render_frame(scene, 0).astype(int), pose_sequence(scene)
    empty = scene.backdrop[::2, ::2].astype(int)
    for name in ("neck", "right_shoulder", "left_shoulder"):
        x, y = np.rint(poses.joints[0, INDEX[name], :2]).astype(int)
        assert np.abs(frame[y, x] - empty[y, x]).max() > 8, name


def test_expression_moves_the_mouth_and_closes_the_lids() -> None:
    character = make_character(5)
    rest = {"mouth_open": 0.0, "mouth_width": 0.0, "smile": 0.0, "brow": 0.0, "furrow": 0.0}
    rest |= {"lids": 1.0, "gaze_x": 0.0, "gaze_y": 0.0}
    plain = face_texture(character, rest, 0).astype(int)
    for change, rows in (({"mouth_open": 1.0}, slice(170, 215)), ({"lids": 0.0}, slice(115, 150))):
        moved = np.abs(face_texture(character, {**rest, **change}, 0).astype(int) - plain).sum(axis=2) > 40
        assert moved[rows].sum() > 0.9 * moved.sum() > 100


def test_the_back_of_a_head_has_no_face(scenes: Scenes) -> None:
    scene = scenes.scene(2, 1, "face")
    opened = np.ones(1)
    performance = scene.performance

    def crop(head: np.ndarray, mouth: np.ndarray) -> np.ndarray:
        expression = replace(performance.expression, mouth_open=mouth)
        moved = replace(performance, head=head[None], expression=expression)
        return face_crop(replace(scene, performance=moved), 0).astype(int)

    front, back = np.eye(3), np.diag([-1.0, 1.0, -1.0])
    changed_front = np.abs(crop(front, opened) - crop(front, 0 * opened)).sum(axis=2) > 60
    changed_back = np.abs(crop(back, opened) - crop(back, 0 * opened)).sum(axis=2) > 60
    assert changed_front[100:].sum() > 300
    assert changed_back.sum() < 0.1 * changed_front.sum()
