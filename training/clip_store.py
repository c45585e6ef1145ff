"""Clips on disk, each made from a seed, and what networks make of them. `rendering.py` renders the clips."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dreamactor.errors import InputError
from dreamactor.training.characters.clip import FRAMES, REFERENCES, STORED_FACE, Bytes, make_clip
from dreamactor.training.characters.scene import Scenes
from dreamactor.training.characters.signals import Expression
from dreamactor.training.packed_frames import PackedFrames

if TYPE_CHECKING:  # processes that render import no torch
    from torch import Tensor

    from dreamactor.training.parallel import Processes

PLACE_FIELDS = 3  # x, y and radius, in pixels
EXPRESSIONS = len(fields(Expression))
PACKED = {"controls": FRAMES, "reference_controls": REFERENCES}
MARKER = "clips.json"

Mode = Literal["r", "r+"]
Shapes = Mapping[str, tuple[tuple[int, ...], str]]


class ClipStore:
    """Clips 0..count-1 of one split; `frames`, `faces`, ... are memory-mapped arrays, one clip a row, the control maps
    are compressed. Those whose `there` is false are not rendered yet. Raises InputError where none were prepared."""

    def __init__(self, folder: Path, mode: Mode = "r", count: int | None = None) -> None:
        about = read_about(folder)
        if not (count or about.get("count")):
            raise InputError(f"{folder} holds no prepared clips; run `dreamactor train` to make them.")
        self.folder, self.count = folder, count or int(about["count"])
        self.height, self.width = int(about["height"]), int(about["width"])
        for name, array in open_arrays(folder, shapes(self.count, self.height, self.width), mode).items():
            setattr(self, name, array)
        for name in PACKED:
            path, bounds = folder / f"{name}.zlib", getattr(self, f"{name}_bounds")
            if mode == "r+":
                path.touch()
            setattr(self, name, PackedFrames(path, bounds, (self.height, self.width, 6)))

    @cached_property
    def expression_statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation [8] of the expressions that show, in the clips that are there by now."""
        values = np.asarray(self.expressions[self.there], np.float64)
        return np.nanmean(values, axis=(0, 1)), np.nanstd(values, axis=(0, 1)) + 1e-6

    def render(self, scenes: Scenes, index: int, seed: int) -> None:
        """Makes the clip of a seed and writes it at an index; `there` is set last."""
        for name, value in vars(make_clip(scenes, seed)).items():
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


def open_arrays(folder: Path, shapes: Shapes, mode: Mode) -> dict[str, NDArray[Any]]:
    """Memory-mapped arrays, of zeros where they are new; with mode "r+" the files grow to their shapes."""
    if mode == "r+":
        for name in shapes:
            (folder / f"{name}.bin").touch()
    return {name: np.memmap(folder / f"{name}.bin", kind, mode, shape=s) for name, (s, kind) in shapes.items()}


def open_derived(folder: Path, shapes: Shapes, marker: str, tag: str, processes: Processes) -> dict[str, NDArray[Any]]:
    """Writable arrays of what networks make of the clips. `tag`, kept in the file `marker`, names the networks; what
    others have made is deleted first."""
    if processes.rank == 0:
        path = folder / marker
        if not path.is_file() or path.read_text() != tag:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            path.write_text(tag)
        open_arrays(folder, shapes, "r+")  # at their full size before the other processes open them
    processes.wait()
    return open_arrays(folder, shapes, "r+")


def fingerprint(values: Iterable[Tensor], salt: bytes = b"") -> str:
    """SHA-256 of weights, which names what is made with them; `salt` changes when its layout does."""
    digest = hashlib.sha256(salt)
    for value in values:
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def read_about(folder: Path) -> dict[str, Any]:
    """What a folder holds; {} where there is nothing, or an older version's clips."""
    try:
        about = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return {}
    return about if (folder / "there.bin").is_file() or not about.get("count") else {}


def shapes(count: int, height: int, width: int) -> Shapes:
    """Shape and type of each of a store's arrays."""
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
