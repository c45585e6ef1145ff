"""The clips that batches are drawn from: those rendered so far, in the device's memory as far as they fit."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamactor.training.clip_store import ClipStore

PICTURES = ("frames", "references", "faces", "controls", "reference_controls", "heads", "mouths", "expressions")
CHUNK = 32  # clips copied to the device before they count
READERS = 4  # threads: unpacking control maps takes 10 ms a clip
Indices = NDArray[np.int64]


class Rows(Protocol):
    """An array [N,T,...] on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, key: Any, /) -> NDArray[Any]: ...


class Shelf:
    """Arrays on disk with a row for each clip, and copies of them in a device's memory: the smallest first, while they
    fit into `room` bytes. `ready` lists the rows that can be taken."""

    def __init__(self, arrays: Mapping[str, Rows], device: torch.device, room: int = 0) -> None:
        self.arrays, self.device = arrays, device
        self.ready: Indices = np.zeros(0, np.int64)
        self.held: dict[str, Tensor] = {}
        for name in sorted(arrays, key=lambda name: _bytes(arrays[name])):
            if _bytes(arrays[name]) <= room:
                room -= _bytes(arrays[name])
                kind = torch.from_numpy(np.zeros(0, arrays[name].dtype)).dtype
                self.held[name] = torch.empty(arrays[name].shape, dtype=kind, device=device)

    def add(self, rows: Indices) -> None:
        """Makes more rows ready."""
        if self.held:
            with ThreadPoolExecutor(READERS) as readers:
                for row, values in zip(rows.tolist(), readers.map(self._read, rows.tolist()), strict=True):
                    for name, value in values.items():
                        self.held[name][row].copy_(torch.from_numpy(value))
        self.ready = np.union1d(self.ready, rows)

    def _read(self, row: int) -> dict[str, NDArray[Any]]:
        return {name: np.array(self.arrays[name][row, :]) for name in self.held}

    def take(self, name: str, rows: Indices, frames: Indices) -> Tensor:
        """`frames` [B,n] of each of the `rows` [B] -> [B,n,...] on the device."""
        if name in self.held:
            return self.held[name][self.there(rows[:, None]), self.there(frames)]
        array = self.arrays[name]
        return self.there(np.stack([array[row, chosen] for row, chosen in zip(rows.tolist(), frames, strict=True)]))

    def whole(self, name: str, rows: Indices) -> Tensor:
        """All frames of the `rows` [B] -> [B,T,...] on the device."""
        return self.take(name, rows, np.tile(np.arange(self.arrays[name].shape[1]), (len(rows), 1)))

    def there(self, values: NDArray[Any]) -> Tensor:
        """Values on the device, without waiting for its other work."""
        return torch.from_numpy(values).to(self.device, non_blocking=True)


class Clips:
    """The clips of a split, their latents (once the VAE is frozen) and the transformer's samples (for the decoder)."""

    def __init__(self, store: ClipStore, device: torch.device | None = None, room: int = 0) -> None:
        self.store, self.device = store, device or torch.device("cpu")
        self.pictures = Shelf({name: getattr(store, name) for name in PICTURES}, self.device, room)
        self.latents: Shelf | None = None
        self.vae = ""  # fingerprint of the VAE that made the latents
        self.sampled: Shelf | None = None
        self._loader: ThreadPoolExecutor | None = None
        self._loading: Future[None] | None = None
        self._head_sizes = np.zeros(0)
        self.load()

    def load(self) -> None:
        """Takes in the clips that were rendered since the last call; the device's other work goes on."""
        new = np.setdiff1d(np.flatnonzero(self.store.there), self.pictures.ready)
        cuda = self.device.type == "cuda"
        with torch.cuda.stream(torch.cuda.Stream(self.device)) if cuda else nullcontext():
            for first in range(0, len(new), CHUNK):
                self.pictures.add(new[first : first + CHUNK])  # each copy ends before the next begins

    def follow(self) -> None:
        """`load` in the background; a failure is raised by the next call."""
        if self._loading is not None:
            if not self._loading.done():
                return
            self._loading.result()
        self._loader = self._loader or ThreadPoolExecutor(1)
        self._loading = self._loader.submit(self.load)

    def draw(self, rng: np.random.Generator, ready: Indices, count: int) -> Indices:
        """`count` of the `ready` clips, drawn in proportion to the size of their heads: a large one teaches more."""
        if len(self._head_sizes) != len(ready):
            radius = np.asarray(self.store.heads[ready][..., 2], np.float64).mean(1)
            self._head_sizes = radius / radius.sum()
        return np.asarray(ready[rng.choice(len(ready), size=count, p=self._head_sizes)])


def _bytes(array: Rows) -> int:
    return int(np.prod(array.shape)) * array.dtype.itemsize
