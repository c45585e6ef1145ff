"""The service section: one clip in process, through Triton and through a plain gRPC server in turn, then loads."""

from __future__ import annotations

from functools import partial
from typing import Any

from dreamactor.benchmark import inputs, server_statistics
from dreamactor.benchmark.load import Call, closed_loop, open_loop
from dreamactor.benchmark.plain_server import PlainServer
from dreamactor.benchmark.run import Bench
from dreamactor.benchmark.scaling import Curve
from dreamactor.benchmark.statistics import Interval, paired_ratio
from dreamactor.benchmark.timing import Case, Timing, interleave
from dreamactor.pipeline import Animator, Options

SHORT = Options(max_frames=5, steps=2)  # a request of a load: queueing is what is looked at, not the clip


def load_service(bench: Bench) -> None:
    """Starts both servers on the main set, compares whole clips, loads Triton, stops both."""
    from dreamactor.serving.client import animate
    from dreamactor.serving.launcher import ServeOptions, Server
    from dreamactor.serving.process import Listen

    media = inputs.media()
    options = Options(max_frames=bench.main.preset.segment_frames)
    listen = Listen(grpc_port=0, http_port=0, metrics_port=0)
    references, driving = [media.reference], media.driving
    with Server.start(ServeOptions(bench.main_folder, listen)) as server:
        statistics = f"{server.listen.host}:{server.listen.http_port}"
        with PlainServer(bench.main_folder) as plain:
            _whole_clips(
                bench,
                {
                    "in process": partial(Animator(bench.main).animate, references, driving, options),
                    "triton": partial(animate, server.address, references, driving, options),
                    "plain gRPC": partial(plain.animate, media.reference, driving, options),
                },
                statistics,
            )
        call = partial(animate, server.address, references, driving, SHORT)
        loads = bench.report["service"]["loads"] = _loads(call, bench.settings.quick)
        bench.report["service"]["request"] = SHORT.to_json()
    curve = _against_callers(loads)
    if curve is not None:
        bench.report["scaling"].setdefault("curves", {})[curve.title] = curve.to_dict()


def _whole_clips(bench: Bench, cases: dict[str, Case], http: str) -> None:
    before = server_statistics.snapshot(http)
    timings = interleave(cases, bench.settings.clips)
    shares = server_statistics.shares(before, server_statistics.snapshot(http))
    for name, timing in timings.items():
        bench.add(Timing(f"service/{name}", timing.samples))
    served = paired_ratio(timings["triton"].seconds, timings["in process"].seconds)
    plain = paired_ratio(timings["plain gRPC"].seconds, timings["in process"].seconds)
    bench.report["service"] |= {
        "statistics": [share.to_dict() for share in shares],
        "served_overhead": _overhead(served).to_dict(),
        "plain_grpc_overhead": _overhead(plain).to_dict(),
        "note": "overheads are fractions of the time in process; the ensemble's own row counts whole requests",
    }
    bench.report["summary"]["served_overhead"] = _overhead(served).to_dict()


def _loads(call: Call, quick: bool) -> list[dict[str, Any]]:
    """Closed loops at growing numbers of callers, then open loops below and above what the service can do."""
    call()
    results = [
        closed_loop(call, callers, max(6, 3 * callers) if quick else max(12, 6 * callers)) for callers in _CALLERS
    ]
    capacity = max(result.throughput for result in results)
    count = 8 if quick else 20
    results += [open_loop(call, share * capacity, count, seed=index) for index, share in enumerate(_SHARES)]
    return [result.to_dict() for result in results]


def _against_callers(loads: list[dict[str, Any]]) -> Curve | None:
    """The median answer of the closed loops over their callers; None where fewer than two loops were answered."""
    closed = [load for load in loads if load["kind"] == "closed" and "p50" in load]
    if len(closed) < 2:
        return None
    callers, seconds = zip(*((load["offered"], (load["p50"]["value"],)) for load in closed), strict=True)
    return Curve("service", "callers", tuple(map(float, callers)), seconds)


_CALLERS = (1, 2, 4)
_SHARES = (0.5, 0.8, 1.2)  # of the closed loops' best throughput


def _overhead(ratio: Interval) -> Interval:
    return Interval(ratio.value - 1, ratio.low - 1, ratio.high - 1)
