"""Each engine of a set beside ONNX Runtime FP32 on stored inputs: what it costs, in time and in decibels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamactor.engines.session import Array, Session
from dreamactor.errors import EngineError, InputError, MissingDependency
from dreamactor.fidelity import PERFECT, signal_to_noise

REPEATS = 3


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
    fast, slow, worst = [], [], PERFECT
    for feed in feeds:
        for _ in range(REPEATS):
            expected, seconds = _timed(reference, feed)
            slow.append(seconds)
            found, seconds = _timed(engine, feed)
            fast.append(seconds)
        worst = min(worst, *(signal_to_noise(expected[name], found[name]) for name in expected))
    return Comparison(network, 1000 * float(np.median(fast)), 1000 * float(np.median(slow)), worst)


def verify_engine(
    directory: Path,
    network: str,
    reference: Path,
    feeds: Iterable[Mapping[str, Array]],
    threads: int | None = None,
    public_key: bytes | None = None,
) -> Comparison:
    """Opens `network` of a set after every check and compares it; an engine that cannot run here says why."""
    from dreamactor.engines.onnxruntime import OnnxRuntimeSession
    from dreamactor.engines.sets import open_engines

    try:
        with ExitStack() as opened:
            engines = opened.enter_context(open_engines(directory, threads, [network], public_key))
            plain = OnnxRuntimeSession(reference, network, threads)
            opened.callback(plain.close)
            return compare_sessions(network, engines.session(network), plain, feeds)
    except (EngineError, InputError, MissingDependency) as error:
        return Comparison(network, None, None, None, str(error))


def _timed(session: Session, feed: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
    started = time.perf_counter()
    return session.run(feed), time.perf_counter() - started
