"""The clips that training reads, on disk: rendered once by worker processes, each clip from its index.

Rendering that was interrupted goes on where it stopped, and a longer training set adds to a shorter one.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from dreamactor.errors import DreamActorError, InputError
from dreamactor.training.clip import FRAMES, REFERENCES, STORED_FACE, Bytes, make_clip
from dreamactor.training.packed import PackedFrames
from dreamactor.training.scene import Stage
from dreamactor.training.signals import Expression

PLACE_FIELDS = 3  # x, y and radius, in pixels
EXPRESSIONS = len(fields(Expression))
PACKED = {"controls": FRAMES, "reference_controls": REFERENCES}
PACKED_SHARE = 0.15  # of their size, at most, is what the control maps of a store take
MARKER = "clips.json"

Mode = Literal["r", "r+"]
Shapes = Mapping[str, tuple[tuple[int, ...], str]]


class ClipStore:
    """Clips 0..count-1 of one split; `frames`, `faces`, ... are memory-mapped arrays, one clip a row, the control maps
    are compressed. Raises InputError where none were prepared."""

    def __init__(self, folder: Path, mode: Mode = "r", count: int | None = None) -> None:
        about = _about(folder)
        if not (count or about.get("count")):
            raise InputError(f"{folder} holds no prepared clips; run `dreamactor train` to make them.")
        self.folder, self.count = folder, count or int(about["count"])
        self.height, self.width = int(about["height"]), int(about["width"])
        shapes = _shapes(self.count, self.height, self.width)
        for name, array in open_arrays(folder, shapes, mode).items():
            setattr(self, name, array)
        for name in PACKED:
            path, bounds = folder / f"{name}.zlib", getattr(self, f"{name}_bounds")
            if mode == "r+":
                path.touch()
            setattr(self, name, PackedFrames(path, bounds, (self.height, self.width, 6)))

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

    def render(self, stage: Stage, index: int) -> None:
        """Makes the clip of an index and writes it; only then it counts as there."""
        for name, value in vars(make_clip(stage, index)).items():
            if name in PACKED:
                getattr(self, name).write(index, value)
            else:
                getattr(self, name)[index] = value
        self.there[index] = True

    frames: Bytes
    controls: PackedFrames
    faces: Bytes
    references: Bytes
    reference_controls: PackedFrames
    heads: NDArray[np.float32]
    mouths: NDArray[np.float32]
    expressions: NDArray[np.float32]
    there: NDArray[np.bool_]


def prepare(
    folder: Path, split: str, count: int, mocap: Path, size: tuple[int, int], fps: float, workers: int
) -> ClipStore:
    """Renders those of clips 0..count-1 of a split that `folder` does not have yet. The result depends on the seeds
    only. Raises InputError where it holds clips of another split, size or rate, DreamActorError where the disk is too
    small."""
    height, width = size
    about: dict[str, Any] = {"split": split, "height": height, "width": width, "fps": fps, "frames": FRAMES}
    known = _about(folder)
    had = known.pop("count", 0)
    if known not in ({}, about) or (not known and (folder / MARKER).is_file()):
        raise InputError(
            f"{folder} holds other clips than these ({split}, {width}x{height}, {fps:g} frames a second), or an older "
            "version's: remove it, or train in another folder with --output."
        )
    if had >= count:
        return ClipStore(folder, count=count)
    Stage(split, mocap, height, width, fps)  # fails early when the motion data is missing
    folder.mkdir(parents=True, exist_ok=True)
    _require_room(folder, count, height, width)
    (folder / MARKER).write_text(json.dumps({**about, "count": had}))
    store = ClipStore(folder, "r+", count)
    missing = np.flatnonzero(~store.there).tolist()
    jobs = [(folder, count, split, mocap, size, fps, missing[i::workers]) for i in range(workers)]
    if workers == 1:
        _fill(*jobs[0])
    else:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            pool.starmap(_fill, jobs)
    (folder / MARKER).write_text(json.dumps({**about, "count": count}))
    return ClipStore(folder)


def open_arrays(folder: Path, shapes: Shapes, mode: Mode) -> dict[str, NDArray[Any]]:
    """Memory-mapped arrays, of zeros where they are new; with mode "r+" the files grow to their shapes."""
    if mode == "r+":
        for name in shapes:
            (folder / f"{name}.bin").touch()
    return {name: np.memmap(folder / f"{name}.bin", kind, mode, shape=s) for name, (s, kind) in shapes.items()}


def _about(folder: Path) -> dict[str, Any]:
    """What a folder holds; {} where there is nothing, or something older."""
    try:
        about = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return {}
    return about if (folder / "there.bin").is_file() or not about.get("count") else {}


def _shapes(count: int, height: int, width: int) -> Shapes:
    return {
        "frames": ((count, FRAMES, height, width, 3), "u1"),
        "faces": ((count, FRAMES, STORED_FACE, STORED_FACE, 3), "u1"),
        "references": ((count, REFERENCES, height, width, 3), "u1"),
        "heads": ((count, FRAMES, PLACE_FIELDS), "f4"),
        "mouths": ((count, FRAMES, PLACE_FIELDS), "f4"),
        "expressions": ((count, FRAMES, EXPRESSIONS), "f4"),
        **{f"{name}_bounds": ((count, frames + 1), "i8") for name, frames in PACKED.items()},
        "there": ((count,), "?"),
    }


def _require_room(folder: Path, count: int, height: int, width: int) -> None:
    """Raises DreamActorError when the clips do not fit: a full disk would end the run without a word."""
    shapes = _shapes(count, height, width).values()
    plain = sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in shapes)
    wanted = plain + PACKED_SHARE * count * sum(PACKED.values()) * height * width * 6
    there = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
    free = shutil.disk_usage(folder).free + there
    if wanted > free:
        raise DreamActorError(
            f"The clips need {wanted / 1e9:.1f} GB in {folder} and {free / 1e9:.1f} are free; "
            "make room or train in another folder with --output."
        )


def _fill(
    folder: Path, count: int, split: str, mocap: Path, size: tuple[int, int], fps: float, indices: list[int]
) -> None:
    cv2.setNumThreads(1)
    stage, store = Stage(split, mocap, *size, fps), ClipStore(folder, "r+", count)
    for index in indices:
        store.render(stage, index)
