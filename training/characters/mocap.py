"""Motion capture: the 44-float clips of the pybullet package, resampled, mirrored and blended.

Axes of the captured body: x forward, y up, z to the person's right; lengths in metres. A clip's clean local rotations
are kept as quaternions (w, x, y, z), so that any body proportions can play it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dreamactor.errors import InputError, MissingDependency

Array = NDArray[np.float64]

_LAYOUT: Final = (
    ("chest", 4), ("neck", 4), ("right_hip", 4), ("right_knee", 1), ("right_ankle", 4), ("right_shoulder", 4),
    ("right_elbow", 1), ("left_hip", 4), ("left_knee", 1), ("left_ankle", 4), ("left_shoulder", 4), ("left_elbow", 1),
)  # fmt: skip

SPLITS: Final = {
    "train": ("backflip", "cartwheel", "dance_a", "jump", "kick", "roll", "run", "spin", "spinkick", "walk"),
    "val": ("getup_faceup",),
    "test": ("dance_b", "punch"),
}
"""Clips by split. `crawl` and `getup_facedown` stay on the floor with the face hidden and are left out."""

LYING: Final = frozenset({"getup_faceup", "roll"})


@dataclass(frozen=True)
class Motion:
    """T frames of one body: position of the root [T, 3] and local rotations by joint, [T, 4] or (hinges) [T]."""

    root: Array
    rotations: dict[str, Array]

    def __len__(self) -> int:
        return len(self.root)


def is_there(folder: Path, split: str) -> bool:
    """Whether all of a split's clips lie in `folder`."""
    return all(_path(folder, name).is_file() for name in SPLITS[split])


def _path(folder: Path, name: str) -> Path:
    return folder / f"humanoid3d_{name}.txt"


def load_clips(folder: Path, names: tuple[str, ...]) -> dict[str, tuple[float, Motion]]:
    """Reads clips by name: {name: (frames per second, motion)}. Raises MissingDependency if the data is not there."""
    clips = {}
    for name in names:
        path = _path(folder, name)
        if not path.is_file():
            raise MissingDependency(
                f"Motion capture clip {path} is missing. Fetch it with: python -m dreamactor.training.assets"
            )
        try:
            frames = np.array(json.loads(path.read_text())["Frames"], float)
        except (ValueError, KeyError) as error:
            raise InputError(f"{path} is not a motion capture clip ({error}); fetch it again.") from error
        if frames.ndim != 2 or frames.shape[1] != 44 or len(frames) < 2:
            raise InputError(f"{path} has frames of shape {frames.shape[1:]}, expected 44 numbers; fetch it again.")
        clips[name] = (1.0 / float(np.median(frames[:-1, 0])), _parse(frames))
    return clips


def _parse(frames: Array) -> Motion:
    rotations = {"root": frames[:, 4:8]}
    column = 8
    for name, size in _LAYOUT:
        values = frames[:, column : column + size]
        rotations[name] = values if size == 4 else values[:, 0]
        column += size
    return Motion(frames[:, 1:4], {k: _continuous(v) if v.ndim == 2 else v for k, v in rotations.items()})


def _continuous(quaternion: Array) -> Array:
    """Flips signs so that neighbours lie in the same half-sphere."""
    q = quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)
    flips = np.cumprod(np.where(np.sum(q[1:] * q[:-1], axis=1) < 0, -1.0, 1.0))
    q[1:] *= flips[:, None]
    return q


def resample(motion: Motion, fps: float, out_fps: float, frames: int, start: float, speed: float) -> Motion:
    """`frames` frames at `out_fps`, from `start` seconds in, played at `speed`, to and fro."""
    last = len(motion) - 1
    position = (start + np.arange(frames) * speed / out_fps) * fps
    position = last - np.abs(position % (2 * last) - last)  # a triangle wave: no jump at the end of the clip
    low = np.minimum(position.astype(int), last - 1)
    weight = position - low

    def mix(values: Array) -> Array:
        w = weight[:, None] if values.ndim == 2 else weight
        return np.asarray(values[low] * (1 - w) + values[low + 1] * w)

    return Motion(mix(motion.root), {k: _unit(mix(v)) for k, v in motion.rotations.items()})


def blend(a: Motion, b: Motion, weight: Array) -> Motion:
    """`a` where weight [T] is 0, `b` where it is 1; the root position stays that of `a`."""
    w = weight[:, None]
    mixed = {}
    for name, first in a.rotations.items():
        second = b.rotations[name]
        if name == "root":
            mixed[name] = first
        elif first.ndim == 1:
            mixed[name] = first * (1 - weight) + second * weight
        else:
            second = second * np.sign(np.sum(first * second, axis=1, keepdims=True) + 1e-9)
            mixed[name] = _unit(first * (1 - w) + second * w)
    return Motion(a.root, mixed)


def mirror(motion: Motion) -> Motion:
    """Left and right exchanged."""
    flip = np.array([1.0, -1.0, -1.0, 1.0])
    mirrored = {}
    for name, values in motion.rotations.items():
        other = name.replace("right", "#").replace("left", "right").replace("#", "left")
        mirrored[other] = values * flip if values.ndim == 2 else values
    return Motion(motion.root * np.array([1.0, 1.0, -1.0]), mirrored)


def _unit(values: Array) -> Array:
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True)) if values.ndim == 2 else values


def quaternion_matrix(q: Array) -> Array:
    """Rotation matrices [..., 3, 3] of unit quaternions [..., 4] (w, x, y, z)."""
    w, x, y, z = np.moveaxis(q, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def axis_rotation(axis: int, angle: Array) -> Array:
    """Rotation matrices [T, 3, 3] about axis 0, 1 or 2 by angle [T] in radians."""
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.zeros((*np.shape(angle), 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[..., axis, axis] = 1
    matrix[..., i, i] = matrix[..., j, j] = c
    matrix[..., i, j], matrix[..., j, i] = -s, s
    return matrix
