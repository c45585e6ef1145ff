"""An engine set by the names of what is wanted: what `make engines`, the demo and the tests call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dreamactor.errors import EngineError

if TYPE_CHECKING:
    from dreamactor.engines.builder import BuildOptions
    from dreamactor.engines.shapes import Ranges


def build_set(
    preset: str,
    precision: str | None = None,
    target: str = "cpu",
    checkpoint: Path | None = None,
    output: Path | None = None,
    log: Callable[[str], None] = print,
    options: BuildOptions | None = None,
    ranges: Ranges | None = None,
    store: Path | None = None,
) -> Path:
    """Builds the engine set and returns its folder; one that is up to date is kept.

    Without `precision` it is the target's own: "fp32" on a CPU, 16 bits on a GPU. Without `checkpoint` the one that
    ships with the preset is used, and random weights where none does, which is said.
    Raises EngineError when a quality gate is missed, after the report is written.
    """
    from dreamactor.production.console import build_progress
    from dreamactor.production.make import make_engines
    from dreamactor.production.request import make_request

    request = make_request(preset, precision, target, checkpoint, output, store, ranges, options)
    with build_progress() as progress:
        found = make_engines(request, log, progress)
    if not found.passed:
        raise EngineError(f"{request.output} did not pass: see the table and {request.output}/report.html.")
    return found.folder


def set_at_hand(preset: str, precision: str | None = None, log: Callable[[str], None] = print) -> Path:
    """The engine set for the CPU that a command takes where none is named: one that was made of another checkpoint than
    the one that ships is taken as it is, which is said; else it is built, or found up to date.

    Raises EngineError when it missed its quality gate.
    """
    from dreamactor.production.make import of_another_checkpoint
    from dreamactor.production.request import make_request

    request = make_request(preset, precision, "cpu")
    own = of_another_checkpoint(request)
    if own is None:
        return build_set(preset, precision, log=log)
    folder, (made_of, passed) = request.output, own
    if not passed:
        raise EngineError(
            f"{folder}, made of {made_of}, did not pass: see {folder}/report.html, build it again, or take it all the "
            f"same with --engines {folder}."
        )
    log(f"engines: {folder}, made of {made_of}")
    return folder
