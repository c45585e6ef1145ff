"""Motion capture: what is missing or broken is named; mirroring and resampling are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dreamactor.errors import InputError, MissingDependency
from dreamactor.training.assets import mocap_folder
from dreamactor.training.characters.character import make_character
from dreamactor.training.characters.mocap import load_clips, mirror, quaternion_matrix, resample
from dreamactor.training.characters.performance import make_score, perform
from dreamactor.training.characters.scene import Scenes
from dreamactor.training.train import train


def test_missing_clips_say_how_to_fetch_them(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match=r"python -m dreamactor\.training\.assets"):
        load_clips(tmp_path, ("walk",))
    with pytest.raises(MissingDependency, match=r"python -m dreamactor\.training\.assets"):
        train("tiny", tmp_path / "run", mocap=tmp_path)


@pytest.mark.parametrize("content", ["no JSON", '{"Frames": [[1, 2], [3, 4]]}', "{}"])
def test_broken_clips_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "humanoid3d_walk.txt").write_text(content)
    with pytest.raises(InputError, match="humanoid3d_walk"):
        load_clips(tmp_path, ("walk",))


def test_mirroring_twice_changes_nothing_and_once_swaps_sides() -> None:
    _, motion = load_clips(mocap_folder(), ("kick",))["kick"]
    twice = mirror(mirror(motion))
    for name, values in motion.rotations.items():
        assert np.allclose(twice.rotations[name], values)
    assert np.allclose(mirror(motion).rotations["left_knee"], motion.rotations["right_knee"])


def test_slower_playing_moves_less_and_stays_smooth() -> None:
    rate, motion = load_clips(mocap_folder(), ("walk",))["walk"]
    slow, fast = (resample(motion, rate, 12, 40, 0.1, speed) for speed in (0.3, 0.9))

    def turned(m: object) -> float:
        matrices = quaternion_matrix(m.rotations["right_hip"])  # type: ignore[attr-defined]
        return float(np.abs(np.diff(matrices, axis=0)).max())

    assert turned(slow) < turned(fast) < 0.6


def test_limbs_keep_their_lengths(scenes: Scenes) -> None:
    body = make_character(3).body
    score = make_score(np.random.default_rng(0), scenes.clips, 12, 12, "half")
    joints = perform(body, score).joints
    from dreamactor.motion.pose import INDEX

    for side in ("right", "left"):
        for a, b, length in (("shoulder", "elbow", body.upper_arm), ("elbow", "wrist", body.forearm),
                             ("hip", "knee", body.thigh), ("knee", "ankle", body.shin)):  # fmt: skip
            found = np.linalg.norm(joints[:, INDEX[f"{side}_{a}"]] - joints[:, INDEX[f"{side}_{b}"]], axis=1)
            assert np.allclose(found, length, atol=0.01), (side, a)
