"""Files read and written whole, or with a sentence not at all."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from dreamactor.errors import InputError


def read_file(path: Path, what: str, most: float = math.inf) -> bytes:
    """The file's bytes; raises InputError naming `what` it was for, also, unread, where it has more than `most`."""
    try:
        if path.is_file() and (size := path.stat().st_size) > most:
            raise InputError(f"Too large: the {what} {path} has {size / 1e6:.1f} MB; the limit is {most / 1e6:.1f} MB.")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"The {what} {path} cannot be read: {error.strerror}.") from error


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal digits; raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_output(path: Path) -> None:
    """Refuses an output that could not be written, before the minutes of work."""
    if _is_special(path):
        return
    path = path.resolve()  # where a link leads is where it is written
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"The output {path} cannot be written: give a file name in a folder that exists.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"The output {path} cannot be written: {path.parent} is not writable.")


def make_folder(path: Path) -> None:
    """Makes the folder and those it lies in; raises InputError where it cannot be made or written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {path} cannot be made: {error.strerror}.") from error
    if not os.access(path, os.W_OK):
        raise InputError(f"The folder {path} is not writable.")


def _is_special(path: Path) -> bool:
    """Whether it is a device or a pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


def write_whole(path: Path, content: bytes) -> None:
    """Writes the file whole or not at all; to a device or a pipe, straight."""
    straight = _is_special(path)
    path = path if straight else path.resolve()
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.part")  # short: the name itself may be as long as names get
    try:
        if straight:
            path.write_bytes(content)
            return
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BrokenPipeError:  # who read it has gone, which is no error
        raise
    except OSError as error:
        raise InputError(f"The output {path} cannot be written: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Holds a folder's lock, where the system has such; it lets go when its holder dies, in whatever container. Yields
    whether it is held; without `wait` it is not where somebody else holds it, or where there are no locks to tell."""
    with contextlib.ExitStack() as opened:
        held = wait
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # a pipe would not open
            opened.callback(os.close, file)
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        yield held
