"""A progress bar for anything longer than a second; a plain line per stage where there is no terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from dreamactor.pipeline.events import Event


class ProgressBar:
    """Shows pipeline events on stderr. Use as a context manager and pass it as `on_progress`."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._live = console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description:32s}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not self._live,
        )  # fmt: skip
        self._task = self._progress.add_task(title, total=1.0)
        self._last = ""

    def __call__(self, event: Event) -> None:
        text = event.stage
        if event.steps:
            text = f"{event.stage} {event.segment}/{event.segments}, step {event.step}/{event.steps}"
        if event.message:
            self._progress.console.print(f"  {event.message}", highlight=False, markup=False, soft_wrap=not self._live)
        self._progress.update(self._task, completed=event.fraction, description=text)
        label = f"{event.stage} {event.segment}/{event.segments}" if event.segments else event.stage
        if not self._live and label != self._last:
            print(f"  {event.fraction:4.0%} {label}", file=sys.stderr, flush=True)
            self._last = label

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
