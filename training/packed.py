"""Pictures compressed one by one in a single file: control maps are nearly black and take an eighth of the disk."""

from __future__ import annotations

import fcntl
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LEVEL = 3  # of zlib; a frame of 128 x 128 x 6 is read in 0.2 ms


class PackedFrames:
    """u8 [N,T,H,W,C] on disk: `packed[clip, frames]` is [n,H,W,C], for a slice or a list of frames.

    `<name>.zlib` has the clips in the order in which they were written, `<name>.npy` int64 [N,T+1] says where each
    frame begins and the last one ends.
    """

    def __init__(self, folder: Path, name: str, frame: tuple[int, int, int]) -> None:
        self.frame = frame
        self.data = np.memmap(folder / f"{name}.zlib", np.uint8, "r")
        self.bounds = np.load(folder / f"{name}.npy", mmap_mode="r")

    def __getitem__(self, key: tuple[int, slice | Sequence[int]]) -> NDArray[np.uint8]:
        clip, frames = key
        bounds = self.bounds[clip]
        chosen = range(len(bounds) - 1)[frames] if isinstance(frames, slice) else frames
        raw = [zlib.decompress(self.data[bounds[i] : bounds[i + 1]].data) for i in chosen]
        return np.stack([np.frombuffer(picture, np.uint8).reshape(self.frame) for picture in raw])


def create_packed(folder: Path, name: str, count: int, frames: int) -> None:
    """Makes the files, with nothing in them."""
    (folder / f"{name}.zlib").write_bytes(b"")
    np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.int64, shape=(count, frames + 1)).flush()


def write_packed(folder: Path, name: str, clip: int, pictures: NDArray[np.uint8]) -> None:
    """Adds a clip u8 [T,H,W,C]; several processes may do so at once."""
    packed = [zlib.compress(picture.tobytes(), LEVEL) for picture in pictures]
    with (folder / f"{name}.zlib").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        start = file.seek(0, 2)
        file.write(b"".join(packed))
    bounds = np.load(folder / f"{name}.npy", mmap_mode="r+")
    bounds[clip] = start + np.cumsum([0, *map(len, packed)])
