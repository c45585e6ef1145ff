"""What the server says of a load: differences of its counters, a request's time in parts."""

from __future__ import annotations

import socket

import pytest

from dreamactor.benchmark.server_statistics import settled, shares, snapshot
from dreamactor.errors import DreamActorError

MILLISECOND = 1_000_000


def counters(requests: int, queue: int, compute: int, success: int) -> dict[str, tuple[int, int]]:
    """What Triton has counted of a model so far; milliseconds, `compute` in each of its three phases."""
    spent = {"queue": queue, "compute_input": compute, "compute_infer": compute, "compute_output": compute}
    return {key: (requests, value * MILLISECOND) for key, value in (spent | {"success": success}).items()}


def test_a_request_is_queue_compute_and_overhead() -> None:
    before = {"denoise": counters(3, queue=9, compute=3, success=30)}
    after = {"denoise": counters(5, queue=1009, compute=203, success=1730), "idle": counters(0, 0, 0, 0)}

    (row,) = shares(before, after)

    assert (row.model, row.executions) == ("denoise", 2)
    assert row.seconds == pytest.approx(
        {
            "queue": 0.5, "compute_input": 0.1, "compute_infer": 0.1, "compute_output": 0.1,
            "success": 0.85, "overhead": 0.05,
        }
    )  # fmt: skip


def test_the_ensemble_has_no_compute_of_its_own() -> None:
    (row,) = shares({}, {"dreamactor": counters(4, queue=8, compute=40, success=4000)})
    assert row.seconds == pytest.approx({"queue": 0.002, "success": 1.0})


def test_a_snapshot_is_taken_when_nothing_is_counted_any_more() -> None:
    seen = iter([{"denoise": counters(requests, 0, 0, requests)} for requests in (4, 5, 6, 6, 7)])
    assert settled(lambda: next(seen))["denoise"]["success"] == (6, 6 * MILLISECOND)


def test_a_server_that_is_gone_is_said_to_be() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(DreamActorError, match=f"{address} does not give its statistics: .*refused"):
            snapshot(address)
