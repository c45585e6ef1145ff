"""Clips that wait for their turn: one is at work, the others stand in line and are told how many come before them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 1.0  # between two signs of life of one who waits


class Line:
    """Places in order of arrival, for the threads of one process."""

    def __init__(self) -> None:
        self._places: list[object] = []
        self._moved = threading.Condition()

    @contextmanager
    def place(self) -> Iterator[Iterator[int]]:
        """A place at the end, given up with the block. What it gives yields how many are before it, at once and again
        every `SECONDS`, and ends when nobody is."""
        mine = object()
        with self._moved:
            self._places.append(mine)
        try:
            yield self._ahead(mine)
        finally:
            with self._moved:
                self._places.remove(mine)
                self._moved.notify_all()

    def _ahead(self, mine: object) -> Iterator[int]:
        while ahead := self._places.index(mine):
            yield ahead
            with self._moved:
                self._moved.wait_for(lambda: self._places[0] is mine, SECONDS)
