"""Progress of a build: a bar on a terminal, a line a stage elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType


class BuildProgress:
    """Use as a context manager and pass it as `on_progress`; writes to stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=self._console, transient=True, disable=not self._console.is_terminal,
            redirect_stdout=sys.stdout.isatty(),  # else what is printed for a file or a pipe would go to stderr
        )  # fmt: skip
        self._task = self._progress.add_task("starting", total=None)
        self._what, self._started = "starting", time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        stage = what.partition(":")[0]
        if stage != self._what.partition(":")[0] and not self._console.is_terminal:
            print(f"  {time.monotonic() - self._started:6.0f} s  {stage}", file=sys.stderr, flush=True)
        if what != self._what:  # a new bar: a total that was known cannot become unknown again
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task(what, total=None)
            self._what = what
        self._progress.update(self._task, completed=done, total=total or None)

    def __enter__(self) -> BuildProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
