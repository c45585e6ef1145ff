"""Each engine of a set beside ONNX Runtime FP32 on stored inputs: what it costs, in time and in decibels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamactor.engines.session import Array, Session
from dreamactor.errors import EngineError

REPEATS = 3
LIMIT = 200.0  # dB, reported where nothing differs


@dataclass(frozen=True)
class Comparison:
    """Median latencies in milliseconds; `snr_db` of the worst output over all inputs; `problem` when it did not run."""

    network: str
    latency_ms: float | None
    reference_ms: float | None
    snr_db: float | None
    problem: str = ""


def compare_sessions(
    network: str, engine: Session, reference: Session, feeds: Iterable[Mapping[str, Array]]
) -> Comparison:
    """Runs both on every input, in turns, so that both see the same machine."""
    fast, slow, worst = [], [], LIMIT
    for feed in feeds:
        for _ in range(REPEATS):
            expected, seconds = _timed(reference, feed)
            slow.append(seconds)
            found, seconds = _timed(engine, feed)
            fast.append(seconds)
        worst = min(worst, *(_snr(expected[name], found[name]) for name in expected))
    return Comparison(network, 1000 * float(np.median(fast)), 1000 * float(np.median(slow)), worst)


def verify_engine(
    directory: Path,
    network: str,
    reference: Path,
    feeds: Iterable[Mapping[str, Array]],
    threads: int | None = None,
    public_key: bytes | None = None,
) -> Comparison:
    """Opens `network` of a set after every check and compares it; an engine that cannot run here says so."""
    from dreamactor.engines.onnxruntime import OnnxRuntimeSession
    from dreamactor.engines.sets import open_engines

    try:
        engines = open_engines(directory, threads, [network], public_key)
    except EngineError as error:
        return Comparison(network, None, None, None, str(error))
    with engines:
        plain = OnnxRuntimeSession(reference, network, threads)
        try:
            return compare_sessions(network, engines.session(network), plain, feeds)
        finally:
            plain.close()


def _timed(session: Session, feed: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
    started = time.perf_counter()
    return session.run(feed), time.perf_counter() - started


def _snr(reference: Array, found: Array) -> float:
    exact, other = reference.astype(np.float64), found.astype(np.float64)
    if not (np.isfinite(exact).all() and np.isfinite(other).all()):
        return float("-inf")
    noise = float(np.square(exact - other).sum())
    return LIMIT if noise == 0 else min(LIMIT, 10 * float(np.log10(max(float(np.square(exact).sum()), 1e-30) / noise)))
