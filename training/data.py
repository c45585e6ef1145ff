"""The clips that training reads: rendered once by worker processes into files, each clip from its index.

A clip is what a segment needs and a little more: frames, the control maps drawn by `dreamactor.motion.draw`, the
driving face crops (half of them of another character with the same expression, so that the face encoder learns the
expression and not the person) and reference frames: those of largest, smallest and median head yaw of the clip, and
as many of the same character in another performance.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dreamactor.errors import DreamActorError, InputError
from dreamactor.motion.draw import draw_controls
from dreamactor.motion.pose import INDEX, PoseSequence
from dreamactor.motion.retarget import choose_scale, only
from dreamactor.training.packed import PackedFrames, create_packed, write_packed
from dreamactor.training.performance import perform
from dreamactor.training.scene import (
    Scene,
    Stage,
    face_crop,
    faces_camera,
    mouth_places,
    pose_sequence,
    render_frame,
)
from dreamactor.training.signals import Expression

FRAMES = 33  # a 25-frame segment at three offsets
REFERENCES = 6
STORED_FACE = 112  # half the encoder's size: doubled when read
FACE_MARGIN = 1.15  # the stored crops show this much more than the encoder's
LIMITED = 0.3  # how often a clip has only the limbs of its framing
PLACE_FIELDS = 3  # x, y and radius, in pixels
EXPRESSIONS = len(fields(Expression))
PACKED = {"controls": FRAMES, "reference_controls": REFERENCES}
PACKED_SHARE = 0.15  # of their size, at most, is what the control maps of a store take

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Clip:
    """frames u8 [T,H,W,3]; controls u8 [T,H,W,6]; faces u8 [T,112,112,3]; references u8 [R,H,W,3];
    reference_controls u8 [R,H,W,6]; heads and mouths f32 [T,3]: x, y and radius in pixels (a mouth's is 0 where the
    face is turned away); expressions f32 [T,8]: the fields of `Expression`, NaN where the face is turned away."""

    frames: Bytes
    controls: Bytes
    faces: Bytes
    references: Bytes
    reference_controls: Bytes
    heads: NDArray[np.float32]
    mouths: NDArray[np.float32]
    expressions: NDArray[np.float32]


def make_clip(
    stage: Stage, seed: int, frames: int = FRAMES, framing: str | None = None, limited: float = LIMITED
) -> Clip:
    """The clip of a seed, everything rendered; with the chance `limited` its controls have its framing's limbs only."""
    rng = np.random.default_rng([seed, 21])
    scene = stage.scene(seed, frames, framing)
    poses = pose_sequence(scene)
    other = replace(
        scene, performance=perform(scene.character.body, stage.score(seed + 5_000_000, frames, scene.framing))
    )
    faces = render_faces(stage, scene, seed, rng)
    pictures = np.stack([render_frame(scene, i) for i in range(frames)])
    own, foreign = yaw_extremes(scene), yaw_extremes(other)
    references = np.concatenate([pictures[own], np.stack([render_frame(other, i) for i in foreign])])
    other_poses = pose_sequence(other)
    reference_poses = PoseSequence.concatenate(
        [poses[i : i + 1] for i in own] + [other_poses[i : i + 1] for i in foreign]
    )
    controls, reference_controls = draw_clip_controls(scene, poses, reference_poses, rng, seed, limited)
    return Clip(
        frames=pictures,
        controls=controls,
        faces=faces,
        references=references,
        reference_controls=reference_controls,
        heads=np.concatenate([poses.head_center, poses.head_radius[:, None]], axis=1).astype(np.float32),
        mouths=mouth_places(scene),
        expressions=visible_expressions(scene),
    )


def visible_expressions(scene: Scene) -> NDArray[np.float32]:
    """The fields of the expression [T,8], NaN where the face is turned away."""
    values = scene.performance.expression.values().astype(np.float32)
    values[~faces_camera(scene)] = np.nan
    return values


def draw_clip_controls(
    scene: Scene, poses: PoseSequence, references: PoseSequence, rng: np.random.Generator, seed: int, limited: float
) -> tuple[Bytes, Bytes]:
    """Control maps of the clip and of its references; with the chance `limited` without the limbs that
    `motion.retarget` leaves out at this framing, too."""
    height, width = scene.view.height, scene.view.width
    poses = as_detected(rng, poses, height, width, scene.framing)
    scale = choose_scale(references, scene.framing)
    if np.random.default_rng([seed, 22]).random() < limited:
        poses, references = only(poses, scale), only(references, scale)
    return draw_controls(poses, height, width), draw_controls(references, height, width)


def render_faces(stage: Stage, scene: Scene, seed: int, rng: np.random.Generator) -> Bytes:
    """Driving face crops [T,112,112,3] of a scene, with a margin for augmentation: half of the time another
    character's, with the same expression and head turns."""
    frames = len(scene.performance)
    if rng.random() < 0.5:
        character = stage.character(seed + 3_000_000)
        performance = perform(character.body, stage.score(seed, frames, scene.framing))
        scene = replace(scene, character=character, performance=performance)
    margin = FACE_MARGIN / float(rng.uniform(0.95, 1.05))
    shift = float(rng.normal(0, 0.04)), float(rng.normal(0, 0.04))
    return np.stack([face_crop(scene, i, STORED_FACE, shift, margin) for i in range(frames)])


def yaw_extremes(scene: Scene) -> list[int]:
    """Frames with the largest, the smallest and the median head yaw."""
    forward = -scene.performance.head[:, :, 2]
    order = np.argsort(np.arctan2(forward[:, 0], -forward[:, 2]), kind="stable")
    return [int(order[-1]), int(order[0]), int(order[len(order) // 2])]


def as_detected(rng: np.random.Generator, poses: PoseSequence, height: int, width: int, framing: str) -> PoseSequence:
    """The true pose with a detector's faults: jitter, hands not found, joints outside the picture left out."""
    size = min(height, width)
    jitter = rng.normal(size=poses.joints.shape) * rng.uniform(0, 0.004) * size
    jitter[:, INDEX["nose"]] = 0
    confidence = poses.confidence.copy()
    if rng.random() < 0.6:
        x, y = poses.joints[..., 0], poses.joints[..., 1]
        margin = float(rng.uniform(0.02, 0.3)) * size
        outside = (x < -margin) | (x > width + margin) | (y < -margin) | (y > height + margin)
        confidence[outside] = 0
    hands = poses.hand_confidence.copy()
    hands[:, rng.random(2) < (0.5 if framing == "full" else 0.15)] = 0
    return replace(
        poses, joints=(poses.joints + jitter).astype(np.float32), confidence=confidence, hand_confidence=hands
    )


def _shapes(count: int, height: int, width: int) -> dict[str, tuple[tuple[int, ...], str]]:
    return {
        "frames": ((count, FRAMES, height, width, 3), "u1"),
        "faces": ((count, FRAMES, STORED_FACE, STORED_FACE, 3), "u1"),
        "references": ((count, REFERENCES, height, width, 3), "u1"),
        "heads": ((count, FRAMES, PLACE_FIELDS), "f4"),
        "mouths": ((count, FRAMES, PLACE_FIELDS), "f4"),
        "expressions": ((count, FRAMES, EXPRESSIONS), "f4"),
    }


class ClipStore:
    """Clips 0..count-1 of one split on disk; `frames`, `faces`, ... are memory-mapped arrays, one clip a row, the
    control maps are compressed."""

    def __init__(self, folder: Path) -> None:
        try:
            about = json.loads((folder / "clips.json").read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder} holds no prepared clips ({error}); run `dreamactor train` to make them."
            ) from error
        self.folder, self.count = folder, int(about["count"])
        self.height, self.width = int(about["height"]), int(about["width"])
        for name in _shapes(0, 0, 0):
            setattr(self, name, np.load(folder / f"{name}.npy", mmap_mode="r"))
        for name in PACKED:
            setattr(self, name, PackedFrames(folder, name, (self.height, self.width, 6)))

    @cached_property
    def expression_statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation [8] of the expressions that show."""
        values = np.asarray(self.expressions, np.float64)
        return np.nanmean(values, axis=(0, 1)), np.nanstd(values, axis=(0, 1)) + 1e-6

    @cached_property
    def by_head(self) -> NDArray[np.float64]:
        """Probability of each clip [N], in proportion to its head's size: a large one has more to learn."""
        radius = np.asarray(self.heads[..., 2], np.float64).mean(1)
        return np.asarray(radius / radius.sum())

    frames: Bytes
    controls: PackedFrames
    faces: Bytes
    references: Bytes
    reference_controls: PackedFrames
    heads: NDArray[np.float32]
    mouths: NDArray[np.float32]
    expressions: NDArray[np.float32]


def prepare(
    folder: Path, split: str, count: int, mocap: Path, size: tuple[int, int], fps: float, workers: int
) -> ClipStore:
    """Renders clips 0..count-1 of a split into `folder`, or finds them there. The result depends on the seeds only."""
    height, width = size
    about = {"split": split, "count": count, "height": height, "width": width, "fps": fps, "frames": FRAMES}
    marker = folder / "clips.json"
    files = [f"{name}.npy" for name in _shapes(0, 0, 0)] + [f"{name}.zlib" for name in PACKED]
    complete = all((folder / name).is_file() for name in files)
    if complete and marker.is_file() and json.loads(marker.read_text()) == about:
        return ClipStore(folder)
    Stage(split, mocap, height, width, fps)  # fails early when the motion data is missing
    folder.mkdir(parents=True, exist_ok=True)
    shapes = _shapes(count, height, width)
    packed = PACKED_SHARE * count * sum(PACKED.values()) * height * width * 6
    _require_room(folder, packed + sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in shapes.values()))
    marker.unlink(missing_ok=True)
    for name, (shape, kind) in shapes.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=shape).flush()
    for name, frames in PACKED.items():
        create_packed(folder, name, count, frames)
    jobs = [(folder, split, mocap, size, fps, range(i, count, workers)) for i in range(workers)]
    if workers == 1:
        _fill(*jobs[0])
    else:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            pool.starmap(_fill, jobs)
    marker.write_text(json.dumps(about))
    return ClipStore(folder)


def _require_room(folder: Path, wanted: float) -> None:
    """Raises DreamActorError when `wanted` bytes do not fit: a full disk would end the run without a word."""
    there = sum(path.stat().st_blocks * 512 for path in folder.glob("*"))
    free = shutil.disk_usage(folder).free + there
    if wanted > free:
        raise DreamActorError(
            f"The clips need {wanted / 1e9:.1f} GB in {folder} and {free / 1e9:.1f} are free; "
            "make room or train in another folder with --output."
        )


def _fill(folder: Path, split: str, mocap: Path, size: tuple[int, int], fps: float, indices: range) -> None:
    cv2.setNumThreads(1)
    stage = Stage(split, mocap, *size, fps)
    names = _shapes(0, 0, 0)
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in names}
    for index in indices:
        clip = make_clip(stage, index)
        for name in names:
            arrays[name][index] = getattr(clip, name)
        for name in PACKED:
            write_packed(folder, name, index, getattr(clip, name))
