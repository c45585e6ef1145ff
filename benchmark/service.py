"""The service section: one clip in process, through Triton and through a plain gRPC server in turn, then loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dreamactor.benchmark import inputs, server_statistics
from dreamactor.benchmark.bench import Bench
from dreamactor.benchmark.load import Call, LoadResult, closed_loop, open_loop
from dreamactor.benchmark.memory import Watch
from dreamactor.benchmark.plain_server import PlainServer
from dreamactor.benchmark.scaling import Curve
from dreamactor.benchmark.server_statistics import Look, settled, shares
from dreamactor.benchmark.statistics import Interval, exponent, paired_ratio
from dreamactor.benchmark.timing import Case, interleave
from dreamactor.errors import DreamActorError
from dreamactor.pipeline import Animator, Options

SHORT = Options(max_frames=5, steps=2)  # a request of a load, which is about queueing and not the clip

_CALLERS = (1, 2, 4)
_SHARES = (0.5, 0.8, 1.2)  # of the closed loops' best throughput


def load_service(bench: Bench) -> None:
    """Starts both servers on the main set, compares whole clips, loads Triton, stops both.

    Raises DreamActorError when a load gets no answer; what was measured until then is in the report.
    """
    from dreamactor.serving.client import animate
    from dreamactor.serving.launcher import ServeOptions, Server
    from dreamactor.serving.process import Listen

    media = inputs.media()
    options = Options(max_frames=bench.main.preset.segment_frames)
    listen = Listen(grpc_port=0, http_port=0, metrics_port=0)
    references, driving = [media.reference], media.driving
    with Server.start(ServeOptions(bench.main_folder, listen)) as server:
        look = partial(server_statistics.snapshot, f"{server.listen.host}:{server.listen.http_port}")
        with PlainServer(bench.main_folder) as plain:
            _whole_clips(
                bench,
                {
                    "in process": partial(Animator(bench.main).animate, references, driving, options),
                    "triton": partial(animate, server.address, references, driving, options),
                    "plain gRPC": partial(plain.animate, media.reference, driving, options),
                },
                look,
            )
        bench.report["service"]["request"] = SHORT.to_json()
        call = partial(animate, server.address, references, driving, SHORT)
        call()
        loads = Loads(call, look, bench.report["service"], server.process.memory)
        loads.closed_loops(bench.settings.quick)
        _against_callers(bench.report["service"]["loads"], bench.report["scaling"])
        loads.open_loops(bench.settings.quick, bench.settings.rates)


class Loads:
    """Loads on one service, each in `report["loads"]` as soon as it is over, with the server's own statistics and the
    most of its `memory` meanwhile, in bytes.

    Failures are in `report["failed_requests"]`, a sentence for each load. A load in which nothing was answered raises
    DreamActorError with the first failure.
    """

    def __init__(self, call: Call, look: Look, report: dict[str, Any], memory: Callable[[], int]) -> None:
        self._call, self._look, self._report, self._memory = call, look, report, memory
        report |= {"loads": [], "failed_requests": []}

    def closed_loops(self, quick: bool) -> None:
        """Growing numbers of callers; the best throughput is the report's `capacity`, requests a second."""
        for callers in _CALLERS:
            requests = max(6, 3 * callers) if quick else max(12, 6 * callers)
            self._run(f"closed loop, callers {callers}", partial(closed_loop, self._call, callers, requests))
        self._report["capacity"] = max(load["throughput"] for load in self._report["loads"])

    def open_loops(self, quick: bool, rates: Sequence[float] | None = None) -> None:
        """At `rates` requests a second; None means below and above the capacity, after `closed_loops`."""
        if rates is None:
            rates = [share * self._report["capacity"] for share in _SHARES]
        for seed, rate in enumerate(rates):
            load = partial(open_loop, self._call, rate, 8 if quick else 20, seed)
            self._run(f"open loop, {rate:.3g} a second", load)

    def _run(self, name: str, load: Callable[[], LoadResult]) -> None:
        before, watch = settled(self._look), Watch(self._memory, seconds=1.0)  # asking takes some 10 ms of a core
        try:
            result = load()
        finally:
            watch.stop()
        found = {**result.to_dict(), "memory": watch.most}
        self._report["loads"].append(found)
        if result.failures:
            count = f"{found['failed']} of {found['requests']} requests failed"
            self._report["failed_requests"].append(f"{name}: {count}, the first with {result.failures[0]}")
        if not result.latencies:
            raise DreamActorError(f"The service stopped answering. {self._report['failed_requests'][-1]}")
        found["statistics"] = [share.to_dict() for share in shares(before, settled(self._look))]


def _whole_clips(bench: Bench, cases: dict[str, Case], look: Look) -> None:
    before = settled(look)
    timings = interleave(cases, bench.settings.clips)
    server = shares(before, settled(look))
    for name, timing in timings.items():
        bench.add(f"service/{name}", timing)
    served = paired_ratio(timings["triton"].seconds, timings["in process"].seconds)
    plain = paired_ratio(timings["plain gRPC"].seconds, timings["in process"].seconds)
    bench.report["service"] |= {
        "statistics": [share.to_dict() for share in server],
        "served_overhead": _overhead(served).to_dict(),
        "plain_grpc_overhead": _overhead(plain).to_dict(),
        "note": "overheads are fractions of the time in process; statistics are means of a request to each model, the "
        "ensemble's a whole clip; clips wait in the queue of prepare and, not counted by Triton, in line in denoise",
    }
    bench.report["summary"]["served_overhead"] = _overhead(served).to_dict()


def _against_callers(loads: list[dict[str, Any]], scaling: dict[str, Any]) -> None:
    """The median answer of the closed loops and the server's memory over their callers, where two loops were
    answered."""
    closed = [load for load in loads if load["kind"] == "closed" and "p50" in load]
    if len(closed) < 2:
        return
    callers = [float(load["offered"]) for load in closed]
    curve = Curve("service", "callers", tuple(callers), tuple((load["p50"]["value"],) for load in closed))
    scaling.setdefault("curves", {})[curve.title] = curve.to_dict()
    held = [load["memory"] for load in closed]
    scaling.setdefault("memory_curves", {})["callers"] = {
        "sizes": callers, "bytes": held, "exponent": exponent(callers, held).to_dict(),
    }  # fmt: skip


def _overhead(ratio: Interval) -> Interval:
    return Interval(ratio.value - 1, ratio.low - 1, ratio.high - 1)
