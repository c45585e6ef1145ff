"""Whether a job is still wanted: a file per running job, in a folder that the server's processes share.

An ensemble does not tell its running step that the caller has gone; only the step after it learns that, at the next
response. So `denoise` opens a job, `finish` calls it off by writing into its file, and `denoise` looks before every
step. An empty file means "wanted", any other "called off and not ended yet"; only who opened the job makes its file and
removes it, so nothing that happens late can leave one behind. Its maker holds a lock on it, which ends with a process
that is killed.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dreamactor.errors import Cancelled

WATCH_SECONDS = 0.05
WAITING = 8  # clips that may wait to be made; each is held in memory


def folder_of(temporary: Path, server: int) -> Path:
    """Where the jobs of the server with this process number lie, whose temporary files are in `temporary`."""
    return temporary / f"dreamactor-jobs-{server}"


def shared_folder() -> Path:
    """The folder of this server, the parent of the process that asks: its models need no setting to find each other."""
    return folder_of(Path(tempfile.gettempdir()), os.getppid())


class Jobs:
    """The running jobs in `folder`, which is made when it is missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Removes the folder if no job is in it."""
        with suppress(OSError):
            self._folder.rmdir()

    @contextmanager
    def open(self) -> Iterator[str]:
        """The token of a new job, wanted until it is called off or the block ends."""
        token = uuid.uuid4().hex
        path, fresh = self._folder / token, self._folder / f".{token}"
        with fresh.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            fresh.rename(path)  # it is never there without its lock
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

    def require(self, token: str) -> None:
        """Raises Cancelled unless the job is wanted."""
        if not self.wanted(token):
            raise Cancelled("Cancelled: the caller has gone, or the server is being stopped.")

    def count(self) -> int:
        """How many have not ended, wanted or not; files of killed processes are removed."""
        return sum(_alive(path) for path in self._folder.iterdir() if path.name.isalnum())

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


def _alive(path: Path) -> bool:
    """Whether the process that opened the job still holds its file; else the file is removed."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    path.unlink(missing_ok=True)
    return False
