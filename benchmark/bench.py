"""What the sections of a run share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamactor.benchmark import schema
from dreamactor.benchmark.engine_sets import Sets
from dreamactor.benchmark.settings import Settings
from dreamactor.benchmark.timing import Timing
from dreamactor.engines import Engines


@dataclass
class Bench:
    """What the sections share: the settings, the open engine sets, and what was found so far."""

    settings: Settings
    sets: Sets
    report: dict[str, Any] = field(default_factory=schema.empty)
    timings: dict[str, Timing] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def main(self) -> Engines:
        """The set that whole clips are made with."""
        return next(iter(self.sets.opened.values()))

    @property
    def main_folder(self) -> Path:
        return next(iter(self.sets.folders.values()))

    def add(self, name: str, timing: Timing) -> None:
        """Keeps a timing, joined with earlier samples of the same thing."""
        before = self.timings.get(name)
        self.timings[name] = before.merged(timing) if before else timing

    def wants(self, section: str) -> bool:
        return self.settings.sections is None or section in self.settings.sections

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.started

    def to_dict(self) -> dict[str, Any]:
        """The report as far as it is, fit for JSON."""
        timings = {name: timing.to_dict() for name, timing in self.timings.items()}
        found: dict[str, Any] = schema.finite({**self.report, "timings": timings})
        found["settings"]["seconds"] = self.seconds
        return found
