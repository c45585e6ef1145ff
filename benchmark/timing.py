"""The timing core: warm-up, runs in turn, every sample kept, the machine's own speed noted beside each.

Cases that are to be compared run interleaved, in an order drawn anew for each round, so that drift hits all of them
alike and none always follows the same other. Before every sample a fixed piece of work (`Yardstick`) is timed: `bench
compare` uses it to tell a slower build from a slower moment.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreamactor.benchmark.statistics import Interval, mean, percentile

Case = Callable[[], object]


@dataclass(frozen=True)
class Sample:
    """One run: wall seconds, processor seconds of this process, seconds of the yardstick just before, its block."""

    seconds: float
    processor: float
    yardstick: float
    block: int = 0


@dataclass(frozen=True)
class Timing:
    """All samples of one thing, in the order they were taken."""

    samples: tuple[Sample, ...]

    @property
    def seconds(self) -> list[float]:
        return [sample.seconds for sample in self.samples]

    def blocks(self, attribute: str = "seconds") -> list[list[float]]:
        """`attribute` of the samples, block by block."""
        grouped: dict[int, list[float]] = {}
        for sample in self.samples:
            grouped.setdefault(sample.block, []).append(getattr(sample, attribute))
        return list(grouped.values())

    def median(self) -> Interval:
        return percentile(self.blocks(), 50)

    def merged(self, other: Timing) -> Timing:
        """This and samples of the same thing taken later."""
        return Timing(self.samples + other.samples)

    def to_dict(self) -> dict[str, Any]:
        """Percentiles with intervals, and the raw samples; seconds."""
        blocks = self.blocks()
        return {
            "runs": len(self.samples),
            **{f"p{rank}": percentile(blocks, rank).to_dict() for rank in (50, 90, 99)},
            "mean": mean(blocks).to_dict(),
            "samples": self.seconds,
            "processor": [sample.processor for sample in self.samples],
            "yardstick": [sample.yardstick for sample in self.samples],
            "block": [sample.block for sample in self.samples],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Timing:
        columns = (values["samples"], values["processor"], values["yardstick"], values["block"])
        return cls(tuple(Sample(*row) for row in zip(*columns, strict=True)))


@dataclass
class Yardstick:
    """Fixed work that no build of ours changes: a float32 matrix product of `size` and a copy of as many bytes.

    In one thread and without BLAS, whose threads spin for a tenth of a second after a product: they would take a core
    from the sample that follows.
    """

    size: int = 256
    _left: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        generator = np.random.Generator(np.random.PCG64(0))
        self._left = generator.standard_normal((self.size, self.size), dtype=np.float32)
        self.run()

    def run(self) -> float:
        """Seconds it takes now."""
        start = time.perf_counter()
        np.einsum("ij,jk->ik", self._left, self._left, optimize=False).copy()
        return time.perf_counter() - start


def interleave(
    cases: Mapping[str, Case],
    rounds: int,
    warmup: int = 1,
    block: int = 0,
    fresh: Callable[[int], None] | None = None,
) -> dict[str, Timing]:
    """Runs every case `warmup` times unmeasured, then `rounds` times, each round in an order of its own.

    `fresh(round)` draws new inputs before a round, outside the clock. Garbage is collected between rounds, not in runs.
    """
    yardstick = Yardstick()
    names = list(cases)
    for _ in range(warmup):
        for name in names:
            cases[name]()
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    with _frozen():
        for index in range(rounds):
            if fresh is not None:
                fresh(index)
            gc.collect()
            for place in np.random.default_rng([block, index]).permutation(len(names)):
                name = names[place]
                samples[name].append(_sample(cases[name], yardstick, block))
    return {name: Timing(tuple(taken)) for name, taken in samples.items()}


@contextmanager
def _frozen() -> Iterator[None]:
    """Inside, garbage is collected on demand only, without going through what was there before."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _sample(case: Case, yardstick: Yardstick, block: int) -> Sample:
    beside = yardstick.run()
    processor, start = time.process_time(), time.perf_counter()
    case()
    return Sample(time.perf_counter() - start, time.process_time() - processor, beside, block)
