"""The private folder of one running server; a later server removes those whose owner was killed."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from pathlib import Path

from dreamactor.errors import InputError
from dreamactor.files import locked
from dreamactor.motion.limits import megabytes

PREFIX = "dreamactor-serve-"
SHARED_MEMORY = Path("/dev/shm")
COPIES = 5  # of a clip at once: into and out of the first two stages, and into the third
_SETTLED_SECONDS = 60.0  # a younger folder may be one whose owner has not locked it yet


class PrivateFolder:
    """A new folder under the system's temporary one, locked for as long as this process lives."""

    def __init__(self) -> None:
        _require_plain(Path(tempfile.gettempdir()))
        self.path, self._held = Path(tempfile.mkdtemp(prefix=PREFIX)), contextlib.ExitStack()
        self._held.enter_context(locked(self.path))  # systemd-tmpfiles leaves a locked folder alone, too

    def remove(self) -> None:
        """The folder, and the shared memory that carries its name."""
        self._held.close()
        remove(self.path)


def _require_plain(folder: Path) -> None:
    """Raises InputError for a folder that the server's own start cannot name: it goes through a shell, unquoted, and
    its Python reads ASCII names only."""
    if not re.fullmatch(r"[\w./+,@%=:-]+", str(folder), re.ASCII):
        raise InputError(
            f"The server cannot keep its files in {folder}: that name has more than plain letters, digits and ._+-; "
            "set TMPDIR to another folder."
        )


def sweep() -> None:
    """Removes folders whose owner is gone, with their shared memory."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or time.time() - path.stat().st_mtime < _SETTLED_SECONDS:
                continue
            with locked(path, wait=False) as left:
                if left:
                    remove(path)


def scarce_shared_memory(clip_bytes: int) -> str:
    """A sentence when a clip of `clip_bytes` may not fit the shared memory through which the stages hand it on."""
    free, needed = shutil.disk_usage(SHARED_MEMORY).free, COPIES * clip_bytes
    if free >= needed:
        return ""
    return (
        f"{SHARED_MEMORY} has {megabytes(free)} free; a clip of {megabytes(clip_bytes)}, the largest accepted, may "
        f"need {megabytes(needed)} and fail. Give it more (a container: --shm-size), or accept less (--max-clip-mb)."
    )


def remove(path: Path) -> None:
    """A private folder, and the shared memory that carries its name."""
    shutil.rmtree(path, ignore_errors=True)
    for region in SHARED_MEMORY.glob(f"{path.name}*"):
        region.unlink(missing_ok=True)
