"""Which attention a TensorRT engine gets: TensorRT's own, or our Triton kernels as a plugin where they are faster.

FP8 sets never have our kernels: their recipe writes attention out with Q/DQ on Q, K, V and the softmax, one scale a
tensor, which TensorRT fuses itself. `FlashAttentionFP8` takes blocks of 128 tokens with a scale each, found at run
time: another graph with another error, which would need an export, a quality gate and an engine of its own.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamactor.engines.session import Array, Session
from dreamactor.engines.target import Target
from dreamactor.errors import EngineError
from dreamactor.fidelity import signal_to_noise

NATIVE, PLUGIN, AUTO = "native", "plugin", "auto"
_KERNELS = {"FlashAttention": "two_segment", "FaceAttention": "face_attention"}  # node -> entry of the tile table
_RUNS = 10


@dataclass(frozen=True)
class Choice:
    """The way that was taken, the milliseconds of each way that was timed, and in words why there was no choice."""

    way: str
    milliseconds: Mapping[str, float]
    reason: str = ""


def ways(asked: str, target: Target, nodes: Sequence[str], head_size: int, dtype: str) -> tuple[tuple[str, ...], str]:
    """The ways to build, and why the plugin is not among them ("" where it is, or TensorRT's own was asked for).

    `nodes` are the kinds of attention node in the graph, which runs in `dtype` ("fp16", "bf16", "fp32"). Raises
    EngineError where the plugin was asked for by name and cannot be had; a network without such nodes, as all but the
    denoiser are, has its reason instead.
    """
    if asked == NATIVE:
        return (NATIVE,), ""
    if not nodes:
        return (NATIVE,), "its graph has no attention node that a kernel of ours could replace"
    missing = _missing(target, nodes, head_size, dtype)
    if asked == PLUGIN:
        if missing:
            raise EngineError(f"The attention plugin cannot be built for {target.name}: {missing}.")
        return (PLUGIN,), ""
    return ((NATIVE,), missing) if missing else ((NATIVE, PLUGIN), "")


def _missing(target: Target, nodes: Sequence[str], head_size: int, dtype: str) -> str:
    """Why there is no kernel, or ""."""
    if target.runtime != "tensorrt":
        return f"{target.runtime} has no plugins"
    if dtype not in ("fp16", "bf16"):
        return f"the kernels run in FP16 or BF16, not in {dtype}"
    if importlib.util.find_spec("triton") is None:
        return "Triton, which compiles the kernels, is not installed"
    from dreamactor.kernels.tiles import table_key, tiles

    table = table_key(target.capability)
    if table is None:
        return f"there are no kernels for {target.architecture}"
    for node in dict.fromkeys(nodes):
        if not any(not tile.specialized for tile in tiles(_KERNELS[node], table, head_size)):
            return f"there is no {node} kernel for {target.architecture} and heads of {head_size}"
    return ""


def fastest(
    built: Mapping[str, Path],
    open_session: Callable[[Path], Session],
    feed: Mapping[str, Array],
    least_snr: float,
) -> Choice:
    """Of an engine built both ways: the way that runs `feed` in less time, by the median.

    The plugin counts only if its outputs are those of TensorRT's own attention to `least_snr` dB; else nothing is
    timed, the native way is taken and the reason says so. Raises EngineError where one of the two cannot run.
    """
    with ExitStack() as opened:
        sessions: dict[str, Session] = {}
        for way, path in built.items():
            sessions[way] = open_session(path)
            opened.callback(sessions[way].close)
        native, plugin = (sessions[way].run(feed) for way in (NATIVE, PLUGIN))  # the first runs, which warm up
        decibels = min(signal_to_noise(native[name], plugin[name]) for name in native)
        if decibels < least_snr:
            return Choice(
                NATIVE, {}, f"its output is {decibels:.1f} dB from TensorRT's own, {least_snr:.0f} dB are needed"
            )
        seconds: dict[str, list[float]] = {way: [] for way in sessions}
        for _ in range(_RUNS):
            for way, session in sessions.items():
                started = time.perf_counter()
                session.run(feed)
                seconds[way].append(time.perf_counter() - started)
    found = {way: 1000 * float(np.median(values)) for way, values in seconds.items()}
    return Choice(min(found, key=lambda way: found[way]), found)
