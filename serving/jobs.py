"""Whether a job is still wanted: a file per running job, in a folder that the server's processes share.

An ensemble does not tell its running step that the caller has gone; only the step after it learns that, at the next
response. So `denoise` opens a job, `finish` calls it off by writing into its file, and `denoise` looks before every
step. An empty file means "wanted", any other "called off and not ended yet"; only who opened the job makes its file and
removes it, so nothing that happens late can leave one behind.
"""

from __future__ import annotations

import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WATCH_SECONDS = 0.05
WAITING = 8  # clips that may wait to be made; each is held in memory


def shared_folder() -> Path:
    """The folder of this server, the parent of the process that asks: its models need no setting to find each other."""
    return Path(tempfile.gettempdir()) / f"dreamactor-jobs-{os.getppid()}"


class Jobs:
    """The running jobs in `folder`, which is made when it is missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def open(self) -> Iterator[str]:
        """The token of a new job, wanted until it is called off or the block ends."""
        token = uuid.uuid4().hex
        path = self._folder / token
        path.touch()
        try:
            yield token
        finally:
            path.unlink(missing_ok=True)

    def wanted(self, token: str) -> bool:
        """False, too, for what never was a token."""
        try:
            return token.isalnum() and (self._folder / token).stat().st_size == 0
        except FileNotFoundError:
            return False

    def count(self) -> int:
        """How many have not ended, wanted or not."""
        return sum(1 for _ in self._folder.iterdir())

    def call_off(self, token: str) -> None:
        """Safe at any time, also for a job that has ended or what never was a token."""
        if token.isalnum():
            with suppress(FileNotFoundError):
                os.truncate(self._folder / token, 1)

    def clear(self) -> None:
        """Calls every job off."""
        for path in self._folder.iterdir():
            self.call_off(path.name)

    @contextmanager
    def watching(self, token: str, is_cancelled: Callable[[], bool]) -> Iterator[None]:
        """While the block works, calls the job off as soon as `is_cancelled()` says so."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(WATCH_SECONDS):
                if is_cancelled():
                    self.call_off(token)
                    return

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
