"""Loads: nobody waits in an open loop, callers do in a closed one, arrivals are Poisson, failures are counted."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from dreamactor.benchmark import load
from dreamactor.benchmark.load import arrivals, closed_loop, open_loop


class OneAtATime:
    """A service that needs `seconds` a request and serves one at a time."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.lock, self.most, self.waiting = seconds, threading.Lock(), 0, 0

    def __call__(self) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        with self.lock:
            end = time.perf_counter() + self.seconds
            while time.perf_counter() < end:
                threading.Event().wait(0.0005)
        self.waiting -= 1


def test_closed_loop_keeps_so_many_callers_busy() -> None:
    service = OneAtATime(0.01)
    found = closed_loop(service, callers=3, requests=12)
    assert len(found.latencies) == 12
    assert service.most == 3
    assert min(found.latencies) >= 0.01
    assert found.throughput <= 100


def test_open_loop_shows_the_queue_that_a_closed_one_hides() -> None:
    alone = closed_loop(OneAtATime(0.01), callers=1, requests=10).to_dict()["p50"]["value"]
    pressed = open_loop(OneAtATime(0.01), rate=300, requests=25, seed=1).to_dict()
    assert pressed["requests"] == 25
    assert pressed["window"] == pytest.approx(25 / 300)
    assert pressed["p90"]["value"] > 3 * alone


def test_latency_counts_from_the_planned_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "arrivals", lambda rate, requests, seed: np.array([-5.0, -3.0]))  # long overdue
    found = open_loop(lambda: None, rate=1.0, requests=2)
    assert min(found.latencies) >= 3.0
    assert 5.0 <= found.late <= max(found.latencies)


def test_no_more_is_answered_than_is_offered() -> None:
    found = open_loop(lambda: None, rate=100.0, requests=5)  # the last arrives before the time is over
    assert found.throughput <= 100.0


@pytest.mark.parametrize("seed", range(5))
def test_few_arrivals_have_the_rate_asked_for(seed: int) -> None:
    found = arrivals(rate=4.0, requests=20, seed=seed)
    assert len(found) == 20
    assert (np.diff(found) >= 0).all()
    assert 0 <= found[0] <= found[-1] <= 20 / 4.0


def test_the_rate_is_the_same_from_beginning_to_end() -> None:
    drawn = np.concatenate([arrivals(rate=4.0, requests=20, seed=seed) for seed in range(2000)])
    counts, _ = np.histogram(drawn, bins=10, range=(0, 5.0))
    assert counts / (2000 * 0.5) == pytest.approx([4.0] * 10, rel=0.05)


def test_gaps_between_arrivals_are_exponential() -> None:
    gaps = np.diff(arrivals(rate=4.0, requests=20_000, seed=3))
    assert gaps.mean() == pytest.approx(1 / 4.0, rel=0.02)
    assert gaps.var() == pytest.approx(1 / 4.0**2, rel=0.05)
    assert (gaps > 1 / 4.0).mean() == pytest.approx(np.exp(-1), rel=0.05)
    assert np.corrcoef(gaps[1:], gaps[:-1])[0, 1] == pytest.approx(0, abs=0.03)


def test_requests_cannot_arrive_at_no_rate() -> None:
    with pytest.raises(ValueError, match="at 0 a second"):
        arrivals(rate=0.0, requests=5, seed=0)


def test_failures_are_results() -> None:
    def fails() -> None:
        raise RuntimeError("no")

    found = closed_loop(fails, callers=2, requests=4).to_dict()
    assert found["failed"] == 4
    assert found["failures"][0] == "RuntimeError: no"
    assert "p50" not in found
