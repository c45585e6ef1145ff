"""Work in a process of its own: a fault of CUDA's spoils all that its process does after it."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dreamactor.errors import DreamActorError, EngineError


def isolated(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `work`, a function of a module, returns in a process of its own, by way of JSON.

    Raises EngineError with what `work` raised of this project's errors, or where the process ended before it was done
    with how, and what its error stream said last.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "stderr"
        process = context.Process(target=_send, args=(sender, errors, work, arguments))
        process.start()
        sender.close()  # so that the child's end is the pipe's
        try:
            answer: dict[str, Any] = json.loads(receiver.recv_bytes())
        except (EOFError, OSError):  # it ended before, or while it answered
            answer = {}
        process.join()
        said = errors.read_text(errors="replace").strip() if errors.exists() else ""
    if said:
        print(said, file=sys.stderr)
    if "result" not in answer:
        raise EngineError(answer.get("error") or f"{_ended(process.exitcode)}: {said[-400:]}".removesuffix(": "))
    return dict(answer["result"])


def _send(sender: Connection, errors: Path, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    """In the child."""
    with errors.open("w") as file:
        os.dup2(file.fileno(), 2)  # what libraries write there too
    try:
        answer: dict[str, Any] = {"result": work(*arguments)}
    except DreamActorError as error:
        answer = {"error": str(error)}
    sender.send_bytes(json.dumps(answer).encode())


def _ended(code: int | None) -> str:
    how = f"with code {code}" if code is None or code >= 0 else f"by {signal.Signals(-code).name}"
    return f"its process was ended {how}"
