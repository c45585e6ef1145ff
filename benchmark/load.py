"""Load on a service.

Closed loop: a number of callers, each sending again when answered. Open loop: requests arrive at a rate (Poisson),
whether or not the service keeps up; latency counts from the planned arrival, so that queueing shows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamactor.benchmark.statistics import percentile

Call = Callable[[], object]


@dataclass(frozen=True)
class LoadResult:
    """Latencies in seconds of the requests that were answered; `offered` is callers (closed) or requests a second.

    `seconds` is how long the load took, `window` the time over which an open loop's requests arrive, and `late` the
    longest that a request was sent after its planned arrival.
    """

    kind: str
    offered: float
    latencies: tuple[float, ...]
    seconds: float
    failures: tuple[str, ...] = ()
    window: float | None = None
    late: float = 0.0

    @property
    def throughput(self) -> float:
        """Answered requests a second."""
        return len(self.latencies) / self.seconds

    def to_dict(self) -> dict[str, Any]:
        ranks = {f"p{rank}": percentile([self.latencies], rank).to_dict() for rank in (50, 90, 99) if self.latencies}
        return {
            "kind": self.kind,
            "offered": self.offered,
            "throughput": self.throughput,
            "seconds": self.seconds,
            "window": self.window,
            "late": self.late,
            "requests": len(self.latencies) + len(self.failures),
            "failures": list(self.failures[:5]),
            "failed": len(self.failures),
            **ranks,
            "samples": list(self.latencies),
        }


def arrivals(rate: float, requests: int, seed: int) -> NDArray[np.float64]:
    """When each of `requests` requests arrives, [requests] in order, in seconds from 0 to requests/rate.

    A Poisson process given how many arrive in that time: uniform draws. Gaps drawn one by one would end sooner or
    later, so that a few of them arrive at another rate. Raises ValueError for a rate that is not positive.
    """
    if rate <= 0:
        raise ValueError(f"requests cannot arrive at {rate:g} a second")
    return np.sort(np.random.Generator(np.random.PCG64(seed)).uniform(0, requests / rate, requests))


def closed_loop(call: Call, callers: int, requests: int) -> LoadResult:
    """`callers` threads share `requests` requests, each sending the next when its last is answered."""
    board = _Board()
    left = threading.Semaphore(requests)

    def work() -> None:
        while left.acquire(blocking=False):
            board.take(call, time.perf_counter())

    return board.result("closed", callers, [threading.Thread(target=work) for _ in range(callers)])


def open_loop(call: Call, rate: float, requests: int, seed: int = 0) -> LoadResult:
    """`requests` requests that arrive at `rate` a second (`arrivals`), none waiting for another."""
    planned = arrivals(rate, requests, seed)
    start = time.perf_counter()
    board = _Board()

    def arrive(at: float) -> None:
        threading.Event().wait(max(0.0, at - time.perf_counter()))
        board.take(call, at)

    threads = [threading.Thread(target=arrive, args=(start + float(at),)) for at in planned]
    return board.result("open", rate, threads, requests / rate)


class _Board:
    """Where the threads of a load note their latencies and failures."""

    def __init__(self) -> None:
        self._lock, self._latencies, self._failures = threading.Lock(), list[float](), list[str]()
        self._late = 0.0

    def take(self, call: Call, since: float) -> None:
        late = time.perf_counter() - since
        with self._lock:
            self._late = max(self._late, late)
        try:
            call()
        except Exception as error:  # a failed request is a result of the load, not of the harness
            with self._lock:
                self._failures.append(f"{type(error).__name__}: {error}"[:500])
        else:
            with self._lock:
                self._latencies.append(time.perf_counter() - since)

    def result(
        self, kind: str, offered: float, threads: list[threading.Thread], window: float | None = None
    ) -> LoadResult:
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = max(time.perf_counter() - start, window or 0.0)
        return LoadResult(kind, offered, tuple(self._latencies), seconds, tuple(self._failures), window, self._late)
