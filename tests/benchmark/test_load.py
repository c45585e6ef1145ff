"""Loads: nobody waits in an open loop, callers do in a closed one, failures are counted."""

from __future__ import annotations

import threading
import time

import pytest

from dreamactor.benchmark.load import closed_loop, open_loop
from dreamactor.benchmark.server_statistics import shares


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
    assert pressed["p90"]["value"] > 3 * alone


def test_failures_are_results() -> None:
    def fails() -> None:
        raise RuntimeError("no")

    found = closed_loop(fails, callers=2, requests=4).to_dict()
    assert found["failed"] == 4
    assert found["failures"][0] == "RuntimeError: no"
    assert "p50" not in found


def test_server_statistics_between_two_snapshots() -> None:
    before = {"denoise": {"success": (3, 900), "queue": (3, 30), "compute_infer": (3, 600)}}
    after = {
        "denoise": {"success": (5, 2_000_000_900), "queue": (5, 1_000_000_030), "compute_infer": (5, 800_000_600)},
        "idle": {"success": (0, 0), "queue": (0, 0), "compute_infer": (0, 0)},
    }
    (row,) = shares(before, after)
    assert (row.model, row.executions) == ("denoise", 2)
    assert row.seconds["queue"] == pytest.approx(0.5)
    assert row.seconds["compute_infer"] == pytest.approx(0.4)
