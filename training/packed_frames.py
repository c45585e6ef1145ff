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
    """u8 [N,T,H,W,C]: `packed[clip, frames]` is [n,H,W,C] of one clip, for a slice or a list of frames.

    The file has the clips in the order in which they were written; `bounds` int64 [N,T+1] says where each frame begins
    and the last one ends.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, bounds: NDArray[np.int64], frame: tuple[int, int, int]) -> None:
        self.path, self.bounds, self.frame = path, bounds, frame
        self.data: NDArray[np.uint8] = np.zeros(0, np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.bounds), self.bounds.shape[1] - 1, *self.frame

    def __getitem__(self, key: tuple[int, slice | Sequence[int] | NDArray[np.int64]]) -> NDArray[np.uint8]:
        clip, frames = key
        bounds = self.bounds[clip]
        if bounds[-1] > len(self.data):  # written since the file was opened
            self.data = np.memmap(self.path, np.uint8, "r")
        chosen = range(len(bounds) - 1)[frames] if isinstance(frames, slice) else frames
        raw = [zlib.decompress(self.data[bounds[i] : bounds[i + 1]].data) for i in chosen]
        return np.stack([np.frombuffer(picture, np.uint8).reshape(self.frame) for picture in raw])

    def write(self, clip: int, pictures: NDArray[np.uint8]) -> None:
        """Adds a clip [T,H,W,C]; several processes may do so at once."""
        packed = [zlib.compress(picture.tobytes(), LEVEL) for picture in pictures]
        with self.path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
            start = file.seek(0, 2)
            file.write(b"".join(packed))
        self.bounds[clip] = start + np.cumsum([0, *map(len, packed)])
