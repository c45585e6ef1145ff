"""Progress of a build: a bar on a terminal, a line a stage elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def build_progress() -> Iterator[Callable[[str, int, int], None]]:
    """What is given is to be passed as `on_progress`; writes to stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # else what is printed for a file or a pipe would go to stderr
    )  # fmt: skip
    task, now, started = bars.add_task("starting", total=None), "starting", time.monotonic()

    def hear(what: str, done: int, total: int) -> None:
        nonlocal task, now
        stage = what.partition(":")[0]
        if stage != now.partition(":")[0] and not console.is_terminal:
            print(f"  {time.monotonic() - started:6.0f} s  {stage}", file=sys.stderr, flush=True)
        if what != now:  # a new bar: a total that was known cannot become unknown again
            bars.remove_task(task)
            task, now = bars.add_task(what, total=None), what
        bars.update(task, completed=done, total=total or None)

    with bars:
        yield hear
