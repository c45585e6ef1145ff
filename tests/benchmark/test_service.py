"""Loads on a service: each has the server's own statistics, and what was measured outlives the server."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dreamactor.benchmark import service
from dreamactor.benchmark.bench import Bench
from dreamactor.benchmark.engine_sets import Sets
from dreamactor.benchmark.inputs import media
from dreamactor.benchmark.server_statistics import Snapshot, snapshot
from dreamactor.benchmark.service import SHORT, Loads
from dreamactor.benchmark.settings import Settings
from dreamactor.benchmark.timing import Sample, Timing
from dreamactor.errors import DreamActorError

PHASES = {"queue": 20, "compute_input": 1, "compute_infer": 30, "compute_output": 2, "success": 60}


class Service:
    """Answers at once, and counts as Triton does; says that every request spent `PHASES`, in milliseconds.

    `fails` tells by the number of a request, from 1 on, whether it fails.
    """

    def __init__(self, fails: Callable[[int], bool] = lambda number: False) -> None:
        self._fails, self._lock, self._asked, self._spent = fails, threading.Lock(), 0, Counter[str]()

    def __call__(self) -> None:
        with self._lock:
            self._asked += 1
            if self._fails(self._asked):
                raise RuntimeError(f"request {self._asked} fell over")
            self._spent.update(PHASES)

    def memory(self) -> int:
        return 1000 + self._asked

    def look(self) -> Snapshot:
        return {"denoise": {key: (self._spent[key] // PHASES[key], self._spent[key] * 1_000_000) for key in PHASES}}


def test_every_load_has_the_servers_statistics_of_it_alone() -> None:
    server, report = Service(), dict[str, Any]()
    server()
    loads = Loads(server, server.look, report, server.memory)

    loads.closed_loops(quick=True)
    loads.open_loops(quick=True, rates=(500.0, 1000.0))

    assert [(load["kind"], load["offered"]) for load in report["loads"]] == [
        ("closed", 1), ("closed", 2), ("closed", 4), ("open", 500.0), ("open", 1000.0),
    ]  # fmt: skip
    assert report["capacity"] == max(load["throughput"] for load in report["loads"][:3])
    assert report["failed_requests"] == []
    for load in report["loads"]:
        (row,) = load["statistics"]
        assert row["executions"] == load["requests"]
        assert row["seconds"]["queue"] == pytest.approx(0.020)
        assert row["seconds"]["overhead"] == pytest.approx(0.060 - 0.020 - 0.033)
        assert load["memory"] > 1000


def test_an_overhead_is_what_serving_adds_to_the_time_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    took = {"in process": 2.0, "triton": 2.1, "plain gRPC": 1.9}
    timings = {name: Timing(7 * (Sample(each, 0.0, 1.0),)) for name, each in took.items()}
    monkeypatch.setattr(service, "interleave", lambda cases, rounds: timings)
    bench = Bench(Settings(quick=True), Sets({}, {}))

    service._whole_clips(bench, {}, Service().look)

    assert bench.report["summary"]["served_overhead"]["value"] == pytest.approx(0.05)
    assert bench.report["service"]["plain_grpc_overhead"]["high"] == pytest.approx(-0.05)
    assert set(bench.timings) == {f"service/{name}" for name in took}


def test_rates_that_are_not_given_are_shares_of_the_capacity() -> None:
    server, report = Service(), dict[str, Any]()
    loads = Loads(server, server.look, report, server.memory)
    loads.closed_loops(quick=True)
    loads.open_loops(quick=True)
    offered = [load["offered"] for load in report["loads"] if load["kind"] == "open"]
    assert offered == pytest.approx([share * report["capacity"] for share in (0.5, 0.8, 1.2)])


def test_requests_that_fail_are_told() -> None:
    server, report = Service(fails=lambda number: number in (7, 9)), dict[str, Any]()
    loads = Loads(server, server.look, report, server.memory)
    loads.closed_loops(quick=True)
    assert [load["failed"] for load in report["loads"]] == [0, 2, 0]
    (told,) = report["failed_requests"]
    assert told.startswith("closed loop, callers 2: 2 of 6 requests failed, the first with RuntimeError: request ")


@pytest.mark.parametrize(("last", "failed"), [(0, [6]), (10, [0, 2, 12])])
def test_a_service_that_stops_ends_the_loads_with_the_reason(last: int, failed: list[int]) -> None:
    server, report = Service(fails=lambda number: number > last), dict[str, Any]()
    loads = Loads(server, server.look, report, server.memory)
    with pytest.raises(DreamActorError, match=rf"{failed[-1]} of {failed[-1]} requests .* request \d+ fell over"):
        loads.closed_loops(quick=True)
    assert [load["failed"] for load in report["loads"]] == failed


@pytest.mark.server
def test_a_real_server_under_load_and_gone(tiny_engines: Path) -> None:
    from dreamactor.serving.client import animate
    from dreamactor.serving.launcher import ServeOptions, Server
    from dreamactor.serving.process import Listen

    given, report = media(), dict[str, Any]()
    with Server.start(ServeOptions(tiny_engines, Listen(grpc_port=0, http_port=0, metrics_port=0))) as server:
        call = partial(animate, server.address, [given.reference], given.driving, SHORT)
        look = partial(snapshot, f"{server.listen.host}:{server.listen.http_port}")

        Loads(call, look, report, server.process.memory).open_loops(quick=True, rates=(50.0,))

        assert 1e8 < report["loads"][0]["memory"] < 1e10
        rows = {row["model"]: row["seconds"] for row in report["loads"][0]["statistics"]}
        assert set(rows.pop("dreamactor")) == {"queue", "success"}
        assert {"prepare", "denoise", "denoiser", "finish"} <= set(rows)
        assert all(0 <= row["overhead"] < row["success"] for row in rows.values())
        assert rows["prepare"]["queue"] > rows["prepare"]["compute_infer"]  # eight clips at once, one is prepared

        def killing() -> None:
            os.kill(server.process.pid, signal.SIGKILL)
            call()

        with pytest.raises(DreamActorError, match=r"8 of 8 requests failed.*No server answers"):
            Loads(killing, look, report, server.process.memory).open_loops(quick=True, rates=(50.0,))
        assert report["loads"][0]["failed"] == 8
