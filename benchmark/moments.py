"""What the timings of one report tell, and how surely: most things are measured at several moments of a run, of which
some are slower than the others, by what else goes on on the machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median, stdev
from typing import Any

from dreamactor.benchmark.schema import is_ours
from dreamactor.benchmark.statistics import Estimate, faster_half, mean_of
from dreamactor.benchmark.timing import Timing


class Run:
    """The timings of a report, and how far its moments lie apart: all and, `fast`, the faster half of them, as natural
    logarithms, in the mean over the engines and steps."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.timings = {name: Timing.from_dict(timing) for name, timing in report["timings"].items()}
        often = [timing for name, timing in self.timings.items() if name.startswith(("engine/", "step/"))]
        moments = [found for timing in often if len(found := _moments(timing)) > 1]
        self.degrees = min(map(len, moments), default=1) - 1
        self.moment = _root_mean(map(stdev, moments)) if moments else math.inf
        self.fast = _root_mean(faster_half(found).error for found in moments) if moments else math.inf

    def estimate(self, name: str) -> Estimate:
        """The logarithm of what `name` takes in this run's faster moments. What was measured at one moment only may
        have met any of them."""
        found = _moments(self.timings[name])
        if len(found) > 1:
            seen = faster_half(found)
            return replace(seen, error=max(seen.error, self.fast))
        return Estimate(found[0], math.hypot(self.moment, self.within(name).error), self.degrees)

    def within(self, name: str) -> Estimate:
        """The logarithm of what `name` took, as far as its own samples tell."""
        logarithms = [math.log(seconds) for seconds in self.timings[name].seconds]
        return replace(mean_of(logarithms), value=median(logarithms))

    def beside(self, name: str, others: Sequence[str]) -> Estimate:
        """The same over what `others` took in the same rounds."""
        rounds = zip(*(self.timings[each].seconds for each in (name, *others)), strict=True)
        return mean_of([math.log(ours) - fmean(map(math.log, theirs)) for ours, *theirs in rounds])

    def in_turn_with(self, name: str) -> set[str]:
        """PyTorch's rows that were measured in turn with this one of ours."""
        group, rounds = name.rpartition("/")[0], len(self.timings[name].samples)
        theirs = {row: timing for row, timing in self.timings.items() if not is_ours(row)}
        return {row for row, t in theirs.items() if row.rpartition("/")[0] == group and len(t.samples) == rounds}


def _moments(timing: Timing) -> list[float]:
    """The logarithm of the median of each moment's samples."""
    return [math.log(median(block)) for block in timing.blocks()]


def _root_mean(values: Iterable[float]) -> float:
    return math.sqrt(fmean(value**2 for value in values))
