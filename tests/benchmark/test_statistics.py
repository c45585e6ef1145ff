"""Intervals that cover the truth, and say when they cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from dreamactor.benchmark.statistics import (
    Estimate,
    exponent,
    exponent_of_rounds,
    faster_half,
    growth,
    mean,
    mean_of,
    paired_ratio,
    percentile,
    ratio,
)


def noisy(seed: int, count: int, centre: float = 1.0) -> list[float]:
    return list(centre * np.random.default_rng(seed).lognormal(0, 0.05, count))


def test_percentiles_keep_outliers_and_order() -> None:
    samples = [[*noisy(0, 40), 9.0]]
    p50, p90, p99 = (percentile(samples, rank) for rank in (50, 90, 99))
    assert p50.low < p50.value < p90.value < p99.value <= 9.0
    assert p90.high == 9.0
    assert p99.high == math.inf  # forty samples do not bound it
    assert percentile([noisy(0, 400)], 99).high < math.inf
    assert mean(samples).value == pytest.approx(np.mean(samples[0]))


@pytest.mark.parametrize("count", [4, 7, 18, 60])
@pytest.mark.parametrize("rank", [50, 90, 99])
def test_intervals_cover_the_truth_nineteen_times_in_twenty(rank: int, count: int) -> None:
    truth = math.exp(0.05 * NormalDist().inv_cdf(rank / 100))
    found = [percentile([noisy(seed, count)], rank) for seed in range(200)]
    assert sum(interval.low <= truth <= interval.high for interval in found) >= 0.93 * len(found)


@pytest.mark.parametrize("rounds", [3, 7, 12])
def test_what_is_measured_in_turn_is_covered_as_often_as_promised(rounds: int) -> None:
    same = [
        [noisy(seed + 10_000 * part, rounds) for part in range(3)] for seed in range(400)
    ]  # one size after another, or one case after the other

    ratios = [paired_ratio(first, second) for first, second, _ in same]
    flat = [exponent_of_rounds([1.0, 2.0, 4.0], samples) for samples in same]

    assert sum(interval.low <= 1 <= interval.high for interval in ratios) >= 0.93 * len(same)
    assert sum(interval.low <= 0 <= interval.high for interval in flat) >= 0.93 * len(same)


def test_blocks_that_drift_apart_widen_the_interval() -> None:
    together = noisy(1, 30)
    apart = [together[:10], [1.3 * x for x in together[10:20]], [0.8 * x for x in together[20:]]]
    one, three = percentile([together], 50), percentile(apart, 50)
    assert three.high - three.low > 3 * (one.high - one.low)


def test_pairs_cancel_drift_that_a_plain_ratio_does_not() -> None:
    drift = np.linspace(1, 2, 20)
    slow, fast = list(1.1 * drift * noisy(2, 20)), list(drift * noisy(3, 20))
    paired, plain = paired_ratio(slow, fast), ratio(mean_of(np.log(slow).tolist()), mean_of(np.log(fast).tolist()))
    assert paired.low < 1.1 < paired.high
    assert paired.high - paired.low < plain.high - plain.low
    with pytest.raises(ValueError, match="do not pair"):
        paired_ratio(slow, fast[1:])


def test_moments_that_others_made_slower_are_left_out() -> None:
    quiet = [1.00, 1.01, 1.02, 1.03]
    assert faster_half([*quiet, 1.2, 1.3, 1.4]).value == pytest.approx(np.mean(quiet))
    assert faster_half([*quiet, 1.2, 1.3, 9.0]).error == faster_half([*quiet, 1.03, 1.03, 1.03]).error < 0.02
    assert faster_half([1.0]).error == math.inf
    assert faster_half([1.0, 1.2]).error == pytest.approx(mean_of([1.0, 1.2]).error)


@pytest.mark.parametrize("estimate", [mean_of, faster_half])
def test_ratios_of_estimates_cover_the_truth(estimate: Callable[[list[float]], Estimate]) -> None:
    found = [ratio(*(estimate(np.log(noisy(seed + far, 7)).tolist()) for far in (0, 1000))) for seed in range(400)]
    assert 0.92 * len(found) <= sum(each.low <= 1 <= each.high for each in found) < len(found)


def test_exponents() -> None:
    sizes = [5.0, 13.0, 25.0, 49.0]
    quadratic = exponent(sizes, [2 * n**2 for n in sizes])
    assert quadratic.value == pytest.approx(2)
    assert quadratic.high - quadratic.low < 1e-6
    assert exponent(sizes, [3.0, 7.9, 14.9, 30.0]).value == pytest.approx(1, abs=0.05)
    assert exponent([1, 2], [1, 2]).high == math.inf


def test_what_does_not_grow_is_no_smaller_exponent() -> None:
    sizes, generator = [289.0, 361.0, 433.0, 529.0, 673.0], np.random.default_rng(0)
    linear = [120 + 0.98 * size + generator.normal(0, 1) for size in sizes]
    quadratic = [120 + 0.003 * size**2 + generator.normal(0, 1) for size in sizes]

    found = growth(sizes, linear)
    assert found.exponent.low < 1 < found.exponent.high < 1.5
    assert found.constant + found.factor * 433**found.exponent.value == pytest.approx(linear[2], rel=0.01)
    assert growth(sizes, quadratic).exponent.low > 1.5
    assert exponent(sizes, linear).high < 1
    assert growth(sizes[:3], linear[:3]).exponent.high == math.inf


def test_an_exponent_of_rounds_has_the_rounds_noise() -> None:
    sizes = [1.0, 2.0, 4.0]
    samples = [noisy(seed, 9, 3 * size**0.5) for seed, size in enumerate(sizes)]
    found = exponent_of_rounds(sizes, samples)
    assert found.low < 0.5 < found.high < found.low + 0.2
    assert exponent_of_rounds(sizes, [[3.0] * 4, [6.0] * 4, [12.0] * 4]).value == pytest.approx(1)
