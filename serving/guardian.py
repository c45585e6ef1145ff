"""Ends a server whose launcher was killed, and removes what it leaves: `python -m dreamactor.serving.guardian FOLDER`.

The kernel tells tritonserver when the launcher dies (`process._die_with`), but with a request in flight it does not
end, and its model processes not always with it (Triton 2.51, tried). So a process that no terminal reaches waits at a
pipe from the launcher, which says there whom to end and, at last, that nothing is left to do; where the pipe ends
without that, it does the rest.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dreamactor.serving.folder import remove

EXIT_SECONDS = 5  # for unloading the models; a request that is still in flight then is not waited for
GRACE_SECONDS = 5.0
_DONE = "done"


class Guardian:
    """The launcher's side: started before the server, told its process group, and sent away after its end."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "dreamactor.serving.guardian", str(folder)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        self._say(str(group))

    def dismiss(self) -> None:
        """May be called twice."""
        self._say(_DONE)
        self._process.wait()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it was killed, or has been sent away
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()
            if word == _DONE:
                self._process.stdin.close()


def processes() -> list[tuple[int, int, int]]:
    """Number, parent and group of every process on the machine that has not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, group = path.read_text().rpartition(")")[2].split()[:3]
            if state != "Z":
                found.append((int(path.parent.name), int(parent), int(group)))
    return found


def kill(group: int) -> None:
    """Ends every process of the group at once, and waits for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    _wait(group, GRACE_SECONDS)  # the kernel takes a moment to end what it has killed


def _wait(group: int, seconds: float) -> None:
    """Until no process of the group is left, or the seconds are over."""
    deadline = time.monotonic() + seconds
    while any(each == group for _, _, each in processes()) and time.monotonic() < deadline:
        time.sleep(0.01)


def main(folder: Path) -> None:
    told = [line.strip() for line in sys.stdin]
    groups = [int(word) for word in told if word != _DONE]
    if _DONE in told or not groups:
        return
    for group in groups:
        _wait(group, EXIT_SECONDS)
        kill(group)
    remove(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
