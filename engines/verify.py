"""Each engine of a set beside FP32, on the example that the set has of it: what it costs, in time and in decibels."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamactor.engines import trust
from dreamactor.engines.session import Array, Session
from dreamactor.errors import EngineError, InputError, MissingDependency
from dreamactor.fidelity import signal_to_noise

REPEATS = 3


@dataclass(frozen=True)
class Example:
    """One input of a network, and what FP32 makes of it: arrays by name."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def to_bytes(self) -> bytes:
        """As safetensors, with names like "inputs/latent" and "outputs/velocity"."""
        from safetensors.numpy import save

        both = {f"inputs/{name}": array for name, array in self.inputs.items()}
        both |= {f"outputs/{name}": array for name, array in self.outputs.items()}
        return save({name: np.ascontiguousarray(array) for name, array in both.items()})

    @classmethod
    def from_bytes(cls, content: bytes) -> Example:
        """Inverse of `to_bytes`."""
        from safetensors.numpy import load

        both: dict[str, dict[str, Array]] = {"inputs": {}, "outputs": {}}
        for key, array in load(content).items():
            way, _, name = key.partition("/")
            both[way][name] = array
        return cls(**both)


@dataclass(frozen=True)
class Comparison:
    """Median latencies in milliseconds; `snr_db` of the worst output; `problem` when it did not run."""

    network: str
    latency_ms: float | None
    reference_ms: float | None
    snr_db: float | None
    problem: str = ""


def compare(network: str, engine: Session, example: Example, reference: Session | None = None) -> Comparison:
    """Runs `engine` on the example, in turns with `reference` where there is one, so that both see the same machine."""
    fast, slow = [], []
    for _ in range(REPEATS):
        if reference is not None:
            slow.append(_timed(reference, example.inputs)[1])
        found, seconds = _timed(engine, example.inputs)
        fast.append(seconds)
    worst = min(signal_to_noise(expected, found[name]) for name, expected in example.outputs.items())
    return Comparison(network, 1000 * float(np.median(fast)), 1000 * float(np.median(slow)) if slow else None, worst)


def verify_engine(
    directory: Path,
    network: str,
    reference: Path | None = None,
    public_key: bytes | None = None,
) -> Comparison:
    """Opens `network` of a set after every check and compares it with FP32 on the set's example; an engine that cannot
    run here says why. `reference` is the FP32 ONNX, where its latency is wanted too.

    Raises EngineError where the set has no example, or not the one that it was written with.
    """
    from dreamactor.engines.onnxruntime import OnnxRuntimeSession
    from dreamactor.engines.sets import open_engines, read_manifest

    file = read_manifest(directory, public_key).network(network).example
    if file is None:
        raise EngineError(f"{directory} has no example of {network} to compare it on: build it again, 'make engines'.")
    example = Example.from_bytes(trust.read_file(directory, file))
    try:
        with ExitStack() as opened:
            engines = opened.enter_context(open_engines(directory, networks=[network], public_key=public_key))
            plain = OnnxRuntimeSession(reference, network) if reference else None
            if plain is not None:
                opened.callback(plain.close)
            return compare(network, engines.session(network), example, plain)
    except (EngineError, InputError, MissingDependency) as error:
        return Comparison(network, None, None, None, str(error))


def _timed(session: Session, feed: Mapping[str, Array]) -> tuple[dict[str, Array], float]:
    started = time.perf_counter()
    return session.run(feed), time.perf_counter() - started
