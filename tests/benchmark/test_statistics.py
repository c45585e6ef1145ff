"""Intervals that cover the truth, and say when they cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dreamactor.benchmark.statistics import exponent, mean, paired_ratio, percentile, ratio


def noisy(seed: int, count: int, centre: float = 1.0) -> list[float]:
    return list(centre * np.random.default_rng(seed).lognormal(0, 0.05, count))


def test_percentiles_keep_outliers_and_order() -> None:
    samples = [[*noisy(0, 40), 9.0]]
    p50, p90, p99 = (percentile(samples, rank) for rank in (50, 90, 99))
    assert p50.low < p50.value < p90.value < p99.value <= 9.0
    assert p99.high == 9.0
    assert mean(samples).value == pytest.approx(np.mean(samples[0]))


def test_intervals_cover_the_truth_nineteen_times_in_twenty() -> None:
    found = [percentile([noisy(seed, 30)], 50) for seed in range(60)]
    assert sum(interval.low <= 1.0 <= interval.high for interval in found) >= 52


def test_blocks_that_drift_apart_widen_the_interval() -> None:
    together = noisy(1, 30)
    apart = [together[:10], [1.3 * x for x in together[10:20]], [0.8 * x for x in together[20:]]]
    one, three = percentile([together], 50), percentile(apart, 50)
    assert three.high - three.low > 3 * (one.high - one.low)


def test_pairs_cancel_drift_that_a_plain_ratio_does_not() -> None:
    drift = np.linspace(1, 2, 20)
    slow, fast = list(1.1 * drift * noisy(2, 20)), list(drift * noisy(3, 20))
    paired, plain = paired_ratio(slow, fast), ratio([slow], [fast])
    assert paired.low < 1.1 < paired.high
    assert paired.high - paired.low < plain.high - plain.low
    with pytest.raises(ValueError, match="do not pair"):
        paired_ratio(slow, fast[1:])


def test_exponents() -> None:
    sizes = [5.0, 13.0, 25.0, 49.0]
    quadratic = exponent(sizes, [2 * n**2 for n in sizes])
    assert quadratic.value == pytest.approx(2)
    assert quadratic.high - quadratic.low < 1e-6
    assert exponent(sizes, [3.0, 7.9, 14.9, 30.0]).value == pytest.approx(1, abs=0.05)
    assert exponent([1, 2], [1, 2]).high == math.inf
