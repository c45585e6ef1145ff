"""The one exception family, and what becomes of it where a command ends. Every message says what was found, what was
expected and what to do."""

import os
import select
import sys
from collections.abc import Callable


class DreamActorError(Exception):
    """Base of every error this project raises on purpose."""


class InputError(DreamActorError):
    """Unusable user input: a file, an option, a tensor. The CLI exits 2, the server answers INVALID_ARGUMENT."""


class EngineError(DreamActorError):
    """An engine is missing, does not match this machine, or fails its verification."""


class MissingDependency(DreamActorError):
    """An optional package or asset is not installed; the message has the command that installs it."""


class Cancelled(DreamActorError):
    """The caller asked to stop; nothing was written."""


def guarded(work: Callable[[], int | None], name: str) -> int:
    """The exit status of `work`: its own or 0, 2 for input that cannot be used, 1 for another failure, 130 when it was
    interrupted, 141 when what read its output has gone; why is said on stderr, in a sentence that `name` begins."""
    try:
        found = work() or 0
        if sys.stdout is not None:  # as it is where a supervisor has closed it
            sys.stdout.flush()
        return found
    except (KeyboardInterrupt, Cancelled):
        status, reason = 130, "stopped."
    except DreamActorError as error:
        status, reason = 2 if isinstance(error, InputError) else 1, str(error)
    except ModuleNotFoundError as error:  # installed without the extra that has it
        if error.name is None or error.name.partition(".")[0] == "dreamactor":
            raise
        status = 1
        reason = f"This needs {error.name}, which is not installed; `dreamactor doctor` says how to get it."
    except OSError as error:  # a full disk, a folder that cannot be written
        if isinstance(error, BrokenPipeError) and _reader_left():  # `... | head`: nothing went wrong
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still unwritten
            return 141
        status, reason = 1, f"{error.strerror or error}: {error.filename or 'no file named'}"
    print(f"{name}: {reason}", file=sys.stderr)
    return status


def _reader_left() -> bool:
    """Whether nobody reads the pipe that stdout is."""
    if sys.stdout is None:
        return False
    waiting = select.poll()
    waiting.register(sys.stdout.fileno(), 0)  # errors are told unasked
    return any(event & select.POLLERR for _, event in waiting.poll(0))
