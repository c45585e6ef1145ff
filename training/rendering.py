"""Worker processes that render clips, before training (`prepare`) or during it (`Background`).

Rendering goes on where it was interrupted, and more clips are added to those that are there. Only one process at a time
renders in a folder. `python -m dreamactor.training.rendering --output FOLDER` only renders a recipe's clips; a run that
trains in that folder meanwhile takes them as they come.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from dreamactor.errors import DreamActorError, InputError, guarded
from dreamactor.presets import Preset, preset
from dreamactor.training.assets import mocap_folder
from dreamactor.training.characters.clip import FRAMES
from dreamactor.training.characters.scene import Scenes
from dreamactor.training.clip_store import MARKER, PACKED, ClipStore, read_about, shapes
from dreamactor.training.recipe import Recipe, recipe

PACKED_SHARE = 0.15  # of their size: what packed control maps take at most
LOCK = "rendering.lock"
NICE = 10  # training goes first
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Order:
    """Clips to render in a folder: `count` of a split, of a size (height, width) and frame rate. Their seeds count up
    from `first` and alone decide what each shows."""

    folder: Path
    split: str
    count: int
    mocap: Path
    size: tuple[int, int]
    fps: float
    first: int = 0

    def open(self) -> ClipStore:
        """The store at its full size, rendered or not.

        Raises InputError where the folder holds clips of another split, size or rate, or for no clips;
        MissingDependency without motion data; DreamActorError where the disk is too small.
        """
        if self.count < 1:
            raise InputError(
                f"A training set has at least one clip of each split, not {self.count}; give --clips 1 or more."
            )
        known = read_about(self.folder)
        had = known.pop("count", 0)
        if known not in ({}, self._about()) or (not known and (self.folder / MARKER).is_file()):
            raise InputError(
                f"{self.folder} holds other clips than these ({self.split}, {self.size[1]}x{self.size[0]}, "
                f"{self.fps:g} frames a second, seeds from {self.first} on), or an older version's: "
                "remove it, or train in another folder with --output."
            )
        if had < self.count:
            Scenes(self.split, self.mocap, *self.size, self.fps)  # fails early when the motion data is missing
            self.folder.mkdir(parents=True, exist_ok=True)
            _require_room(self.folder, self.count, *self.size)
            self._mark(had)
            ClipStore(self.folder, "r+", self.count)
        return ClipStore(self.folder, count=self.count)

    def finish(self) -> ClipStore:
        """Records that all clips are there."""
        if read_about(self.folder)["count"] < self.count:
            self._mark(self.count)
        return ClipStore(self.folder, count=self.count)

    def _mark(self, count: int) -> None:
        beside = self.folder / f".{MARKER}.{os.getpid()}"
        beside.write_text(json.dumps({**self._about(), "count": count}))
        os.replace(beside, self.folder / MARKER)

    def _about(self) -> dict[str, Any]:
        height, width = self.size
        about = {"split": self.split, "height": height, "width": width, "fps": self.fps, "frames": FRAMES}
        return {**about, "first": self.first} if self.first else about  # older folders have no "first"


def orders(folder: Path, preset: Preset, recipe: Recipe, mocap: Path) -> tuple[Order, Order]:
    """A run's training and validation clips."""
    size = preset.height, preset.width
    train, validation = (
        Order(folder / f"clips_{split}", split, count, mocap, size, preset.fps, first)
        for split, count, first in (("train", recipe.clips, recipe.first_clip), ("val", recipe.validation_clips, 0))
    )
    return train, validation


def prepare(order: Order, workers: int) -> ClipStore:
    """Renders the clips that are not there yet; waits while another process renders in the folder.

    Raises as `Order.open` does, InputError for no workers, DreamActorError when a worker has failed.
    """
    if workers < 1:
        raise InputError(f"Clips are rendered by at least one worker, not by {workers}; give --workers 1 or more.")
    store = order.open()
    if not store.there.all():
        lock = _lock(order.folder, wait=True)
        assert lock is not None
        with lock:
            if workers == 1:
                _fill(order, _missing(store))
            else:
                _join(_start(order, _missing(store), workers))
    return order.finish()


class Background:
    """Renders an order's clips in workers beside this process; they end when it does."""

    def __init__(self, order: Order, workers: int) -> None:
        self.order, self.workers, self.store = order, workers, order.open()
        self.processes: list[BaseProcess] = []
        self.lock: IO[str] | None = None

    def go_on(self) -> int:
        """The number of clips that are there. Starts workers where none render in the folder; raises DreamActorError
        when one has failed."""
        _check(self.processes)
        there = int(self.store.there.sum())
        if there == self.store.count:
            self.order.finish()
        elif self.lock is None:
            self.lock = _lock(self.order.folder, wait=False)
            if self.lock is not None:
                self.processes = _start(self.order, _missing(self.store), self.workers)
        return there

    def stop(self) -> None:
        """Ends the workers; clips that are half done are begun anew when the folder is used again."""
        _end(self.processes)
        if self.lock is not None:
            self.lock.close()
        self.processes, self.lock = [], None
        if self.store.there.all():
            self.order.finish()


def automatic_workers() -> int:
    """Worker processes for this machine's cores: three of many are left to the training."""
    cores = len(os.sched_getaffinity(0))
    return cores if cores < 6 else cores - 3


def _lock(folder: Path, wait: bool) -> IO[str] | None:
    """A file that is held open while this process renders in the folder: one process can. None where another does and
    `wait` is false."""
    file = (folder / LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        return None
    return file


def _missing(store: ClipStore) -> list[int]:
    return [int(index) for index in np.flatnonzero(~store.there)]


def _start(order: Order, missing: list[int], workers: int) -> list[BaseProcess]:
    context = multiprocessing.get_context("spawn")
    shares = [missing[i::workers] for i in range(workers)]  # so that clips are done about in order
    processes: list[BaseProcess] = [
        context.Process(target=_work, args=(order, share), daemon=True) for share in shares if share
    ]
    with _environment(ONE_THREAD):  # what spawned processes find when they import numpy
        for process in processes:
            process.start()
    return processes


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _join(processes: list[BaseProcess]) -> None:
    """Returns when all are done. When one fails, or this process is interrupted, ends the others."""
    try:
        while running := [process.sentinel for process in processes if process.exitcode is None]:
            _check(processes)  # before the wait, which is only for those that run
            wait(running)
        _check(processes)
    finally:
        _end(processes)


def _end(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def _check(processes: list[BaseProcess]) -> None:
    if any(process.exitcode not in (None, 0) for process in processes):
        raise DreamActorError(
            "A process that renders clips has failed (see above) or was ended from outside. What it rendered is kept: "
            "the same command goes on."
        )


def _work(order: Order, indices: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of a terminal's; the parent ends its workers
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    os.nice(NICE)
    cv2.setNumThreads(1)
    _fill(order, indices)


def _end_with_the_parent() -> None:
    """Ends this process as soon as its parent is gone, even by SIGKILL."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _fill(order: Order, indices: list[int]) -> None:
    scenes = Scenes(order.split, order.mocap, *order.size, order.fps)
    store = ClipStore(order.folder, "r+", order.count)
    for index in indices:
        store.render(scenes, index, order.first + index)


def _require_room(folder: Path, count: int, height: int, width: int) -> None:
    """Raises DreamActorError when the clips do not fit: on a full disk, writing to a mapped file kills the process."""
    plain = sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in shapes(count, height, width).values())
    wanted = plain + PACKED_SHARE * count * sum(PACKED.values()) * height * width * 6
    there = sum(path.stat().st_blocks * 512 for path in folder.rglob("*"))
    free = shutil.disk_usage(folder).free + there
    if wanted > free:
        raise DreamActorError(
            f"The clips need {wanted / 1e9:.3g} GB in {folder} and {free / 1e9:.3g} are free; "
            "make room or train in another folder with --output."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status, as `guarded` does."""
    parser = argparse.ArgumentParser(prog="python -m dreamactor.training.rendering", description=__doc__)
    parser.add_argument("--preset", default="puppet")
    parser.add_argument("--recipe", default="whole", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("build/train"), help="run's folder (default: %(default)s)")
    parser.add_argument("--clips", type=int, help="training clips (default: the recipe's)")
    parser.add_argument("--workers", type=int, default=automatic_workers(), help="default: %(default)s")
    options = parser.parse_args(arguments)
    return guarded(lambda: _render(options), "rendering")


def _render(options: argparse.Namespace) -> None:
    wanted = recipe(options.preset, options.recipe)
    train, validation = orders(options.output, preset(options.preset), wanted, mocap_folder())
    prepare(validation, options.workers)
    prepare(train if options.clips is None else replace(train, count=options.clips), options.workers)


if __name__ == "__main__":
    sys.exit(main())
