"""Percentiles, ratios and exponents, each with its interval. Nothing is dropped: an outlier is a measurement.

A percentile lies between two of the samples, by the binomial distribution; where there are too few samples for that, an
end is infinite: twenty samples do not give a 99th percentile. Samples that were taken together drift together (another
job on the machine, a clock that throttles), so they are kept in blocks, and the interval is widened to that of a
bootstrap that draws blocks first and samples within them second. With three blocks that differ it still covers the
truth in less than 95 of 100 runs. Pairs taken in turn, round by round, have exact intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
LEVEL = 0.95
_LARGEST = 700.0  # a power of e that is still a number
Blocks = Sequence[Sequence[float]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value and its interval, at 95 % unless said, in the value's own unit."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def percentile(blocks: Blocks, rank: float) -> Interval:
    """The `rank`-th percentile (0..100) of all samples, which are positive; an end may be infinite."""
    samples = np.concatenate([np.asarray(block, np.float64) for block in blocks])
    drawn = _interval(
        float(np.percentile(samples, rank)), _draws(blocks, lambda rows: np.percentile(rows, rank, axis=1))
    )
    low, high = np.exp(_median_interval(np.log(samples))) if rank == 50 else _quantile_interval(samples, rank / 100)
    return Interval(drawn.value, min(drawn.low, float(low)), max(drawn.high, float(high)))


def mean(blocks: Blocks) -> Interval:
    samples = np.concatenate([np.asarray(block, np.float64) for block in blocks])
    return _interval(float(samples.mean()), _draws(blocks, lambda rows: rows.mean(axis=1)))


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error, and the degrees of freedom that the error was found with."""

    value: float
    error: float
    degrees: int


def mean_of(values: Sequence[float]) -> Estimate:
    """The mean of independent values; of one its error is infinite."""
    degrees = len(values) - 1
    return Estimate(fmean(values), stdev(values) / math.sqrt(len(values)) if degrees else math.inf, degrees)


def faster_half(values: Sequence[float]) -> Estimate:
    """The mean of the smaller half of independent values, the middle one included: what others do on a machine makes
    some of its moments slower and none faster. The error is that of a trimmed mean, by the values with the left out
    ones at the largest that is in (Tukey and McLaughlin 1963)."""
    count, kept = len(values), len(values) // 2 + 1
    if count < 2:
        return mean_of(values)
    smallest = sorted(values)[:kept]
    error = stdev([*smallest, *[smallest[-1]] * (count - kept)]) * math.sqrt(count) / kept
    return Estimate(fmean(smallest), error, kept - 1)


def ratio(numerator: Estimate, denominator: Estimate, level: float = LEVEL) -> Interval:
    """The ratio of two times whose natural logarithms were estimated, with Student's interval at `level`."""
    difference, degrees = numerator.value - denominator.value, numerator.degrees + denominator.degrees
    margin = student(degrees, level) * math.hypot(numerator.error, denominator.error) if degrees else math.inf
    ends = (math.exp(min(difference + side * margin, _LARGEST)) for side in (-1, 1))
    return Interval(math.exp(difference), *ends)


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float], level: float = LEVEL) -> Interval:
    """Median of the ratios of samples that were taken in turn, round by round, so that drift hits both alike; with its
    interval at `level`."""
    if len(numerator) != len(denominator) or not numerator:
        raise ValueError(f"rounds do not pair: {len(numerator)} and {len(denominator)}")
    ratios = np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
    low, high = _median_interval(np.log(ratios), level)
    return Interval(float(np.median(ratios)), math.exp(low), math.exp(high))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> Interval:
    """p of values ~ sizes**p, by least squares on logarithms, with Student's interval of the slope.

    With fewer than three sizes there is no residual, and the interval is infinite.
    """
    x, y = np.log(np.asarray(sizes, np.float64)), np.log(np.asarray(values, np.float64))
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    degrees = len(x) - 2
    if degrees < 1:
        return Interval(slope, -math.inf, math.inf)
    residual = y - y.mean() - slope * (x - x.mean())
    error = math.sqrt(float((residual**2).sum()) / degrees / spread)
    margin = error * student(degrees)
    return Interval(slope, slope - margin, slope + margin)


def exponent_of_rounds(sizes: Sequence[float], samples: Sequence[Sequence[float]]) -> Interval:
    """p of values ~ sizes**p on average over these sizes, from samples[size][round] that were taken in turn: the median
    of the rounds' exponents.

    The interval is the noise of the measurement, not how far the curve is from a power.
    """
    x = np.log(np.asarray(sizes, np.float64))
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    found: Floats = weights @ np.log(np.asarray(samples, np.float64))
    return Interval(float(np.median(found)), *_median_interval(found))


@dataclass(frozen=True)
class Growth:
    """values ~ constant + factor * sizes**exponent; constant and factor in the values' unit."""

    constant: float
    factor: float
    exponent: Interval

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def growth(sizes: Sequence[float], values: Sequence[float]) -> Growth:
    """Least squares of `Growth`; what does not grow with the size goes into the constant, not into a smaller exponent.

    The interval holds the exponents whose best fit an F test at 95 % does not tell from the best of all; it is infinite
    where there are only three values for three numbers.
    """
    x, y = np.asarray(sizes, np.float64), np.asarray(values, np.float64)
    candidates = np.linspace(0.05, 4, 791)
    fits = [_linear((x / x.max()) ** power, y) for power in candidates]
    errors = np.array([error for _, _, error in fits])
    best = int(errors.argmin())
    constant, factor, _ = fits[best]
    power, degrees = float(candidates[best]), len(x) - 3
    low, high = -math.inf, math.inf
    if degrees > 0:
        kept = candidates[errors <= errors[best] * (1 + student(degrees) ** 2 / degrees) + 1e-18 * float((y**2).sum())]
        low = float(kept[0]) if kept[0] > candidates[0] else low
        high = float(kept[-1]) if kept[-1] < candidates[-1] else high
    return Growth(constant, factor / float(x.max()) ** power, Interval(power, low, high))


def _linear(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Constant and factor of y ~ constant + factor * x, and the remaining sum of squares."""
    centred = x - x.mean()
    factor = float(centred @ y) / float(centred @ centred)
    constant = float(y.mean()) - factor * float(x.mean())
    return constant, factor, float(((y - constant - factor * x) ** 2).sum())


@lru_cache
def student(degrees: int, level: float = LEVEL) -> float:
    """Student's two-sided quantile: of sqrt(degrees) * tan(angle), where an angle's density is cos ** (degrees - 1)."""
    angles = np.linspace(0, math.pi / 2, 100_001)
    density = np.cos(angles) ** (degrees - 1)
    share = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(degrees) * math.tan(float(np.interp(level * share[-1], share, angles)))


def _median_interval(values: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Interval of the median of independent values; at 95 % Student's where there are fewer than six."""
    count = len(values)
    if not (2 <= count < 6 and level == LEVEL):
        return _quantile_interval(values, 0.5, level)
    margin = student(count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    centre, median = float(values.mean()), float(np.median(values))
    return min(median, centre - margin), max(median, centre + margin)


def _quantile_interval(values: Floats, share: float, level: float = LEVEL) -> tuple[float, float]:
    """Interval of the quantile `share` (0..1) of independent values, with exact coverage: its ends are two of them,
    or infinite where even the last may lie on the wrong side."""
    count, values, tail = len(values), np.sort(values), (1 - level) / 2
    chances = [  # that so many of the values lie below the quantile
        math.exp(
            math.lgamma(count + 1) - math.lgamma(below + 1) - math.lgamma(count - below + 1)
            + below * math.log(share) + (count - below) * math.log1p(-share)
        )
        for below in range(count + 1)
    ]  # fmt: skip
    few = int((np.cumsum(chances) <= tail).sum())
    many = int((np.cumsum(chances[::-1]) <= tail).sum())
    return float(values[few - 1]) if few else -math.inf, float(values[count - many]) if many else math.inf


def _draws(blocks: Blocks, statistic: Callable[[Floats], Any]) -> Floats:
    """`statistic` (of rows) of DRAWS resampled sets: as many blocks as there are, an average block's samples each."""
    generator = np.random.Generator(np.random.PCG64(0))
    arrays = [np.asarray(block, np.float64) for block in blocks if len(block)]
    sizes = np.array([array.size for array in arrays])
    table = np.stack([np.resize(array, sizes.max()) for array in arrays])
    chosen = generator.integers(0, len(arrays), (DRAWS, len(arrays), 1))
    within = generator.random((DRAWS, len(arrays), round(float(sizes.mean()))))
    drawn = table[chosen, (within * sizes[chosen]).astype(np.int64)]
    result: Floats = statistic(drawn.reshape(DRAWS, -1))
    return result


def _interval(value: float, draws: Floats) -> Interval:
    low, high = np.percentile(draws, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Interval(value, min(float(low), value), max(float(high), value))
