"""What a build will do, known before it does it: which stages are in the store and how long the others last took."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamactor.engines.store import Entry
from dreamactor.errors import EngineError
from dreamactor.presets import Preset
from dreamactor.production.keys import Key, digest
from dreamactor.production.stages import Stages

# Times the weights they are given; measured: 2.2 (TensorRT-RTX 1.7 with 0.8, 1.3 and 7.9 GB) and 1.1.
_BUILDER, _SESSIONS = 2.4, 1.3
_OTHERS = 2 * 2**30  # the largest tensors on their way, activations, the libraries
CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))  # as a container sees its own, version 2 and 1


@dataclass(frozen=True)
class Step:
    """`seconds` is what the same stage of the same network last took, None if it was never made."""

    stage: str
    network: str
    cached: bool
    seconds: float | None


def plan(stages: Stages) -> list[Step]:
    """The stages of every network in the order they run; a network that was put right for the video's sake when it was
    last lowered counts as it then was."""
    keys, store = stages.keys, stages.store
    recipe, request = keys.recipe, stages.request
    entries = tuple(store.entries())
    steps: list[Step] = []

    def add(stage: str, network: str, key: Key) -> None:
        found = store.find(stage, key)
        last = found or _last(entries, stage, network)
        steps.append(Step(stage, network, found is not None, last.seconds if last else None))

    for network in request.networks:
        add("onnx", network, keys.onnx(network))
    if stages.keys.records:
        add("samples", "all", keys.samples())
    for network in request.networks:
        if keys.rewrites:
            add("source", network, keys.source(network))
        if recipe.calibrated:
            add("ranges", network, keys.ranges(network))
        precision = _repaired(entries, keys.precision(network))
        add("precision", network, precision)
        if not request.target.is_onnx:
            add("engine", network, stages.engine_key(network, precision))
    return steps


def _last(entries: Sequence[Entry], stage: str, network: str) -> Entry | None:
    """The entry that was last used of this stage and network; what is recorded is recorded for all."""
    same = (entry for entry in entries if entry.kind == stage and entry.key.get("network", "all") == network)
    return next(same, None)


def _repaired(entries: Sequence[Entry], key: Key) -> Key:
    """The key of the same network with the most modules put back that there is, `key` itself where there is none."""
    lowered = [dict(entry.key) for entry in entries if entry.kind == "precision"]
    same = [found for found in lowered if digest({**found, "put_back": key["put_back"]}) == digest(key)]
    return max(same, key=lambda found: len(found["put_back"]), default=key)


def describe(steps: list[Step]) -> list[str]:
    """A line per stage."""
    lines = []
    for stage in dict.fromkeys(step.stage for step in steps):
        parts = []
        for step in (step for step in steps if step.stage == stage):
            time = "cached" if step.cached else f"last {step.seconds:.0f} s" if step.seconds is not None else "new"
            parts.append(f"{step.network} ({time})")
        lines.append(f"  {_TITLES[stage]:12s} {', '.join(parts)}")
    return lines


_TITLES = {
    "onnx": "export",
    "samples": "record",
    "source": "rewrite",
    "ranges": "calibrate",
    "precision": "lower",
    "engine": "build",
}


def memory_needed(stages: Stages) -> int:
    """Bytes of memory that a build takes at its worst, files that it maps left out: weights stay on disk but for random
    ones, those that TensorRT's builder is given, and those of the sessions that a set for ONNX Runtime is verified in.
    """
    request, weights = stages.request, weight_bytes(stages.request.preset)
    most = _SESSIONS * weights if request.target.is_onnx else _BUILDER * lowered_bytes(stages)
    return int(most if request.checkpoint else max(most, 1.1 * weights)) + _OTHERS


def check_memory(stages: Stages) -> str:
    """A sentence with the memory the work needs; raises EngineError where the machine has less."""
    weights, needed = weight_bytes(stages.request.preset), memory_needed(stages)
    there = available_memory()
    sentence = f"{weights / 1e9:.2f} GB of FP32 weights: up to {needed / 2**30:.1f} GiB of memory"
    if there is not None and needed > there:
        raise EngineError(
            f"{sentence} are needed, and {there / 2**30:.1f} GiB are available here. Use a machine with more memory, "
            "or a smaller preset."
        )
    return sentence


def check_disk(stages: Stages, steps: Sequence[Step]) -> str:
    """A sentence with the disk space that what is not in the store yet may take, and the set; raises EngineError where
    the store's disk has less."""
    weights, store = weight_bytes(stages.request.preset), stages.request.store.absolute()
    lowered = 1.1 * lowered_bytes(stages) / weights  # modules may be put back
    shares = {"onnx": 1.0, "source": 1.0, "precision": lowered, "engine": lowered}
    new = [step.stage for step in steps if step.network == "denoiser" and not step.cached]  # it has nearly all of them
    needed = weights * (lowered + sum(shares.get(stage, 0.0) for stage in new))
    place = next(folder for folder in (store, *store.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    sentence = f"up to {needed / 1e9:.1f} GB of disk"
    if needed > free:
        raise EngineError(
            f"The build writes {sentence}, and {free / 1e9:.1f} GB are free at {place}: make room ('dreamactor engines "
            "prune'), or name another disk's folder with --store and --output."
        )
    return sentence


def lowered_bytes(stages: Stages) -> int:
    """Bytes of all weights in the recipe's precision, with nothing put back."""
    from dreamactor.export.quantize import MIN_CHANNELS

    recipe = stages.keys.recipe

    def width(name: str, shape: Sequence[int]) -> int:
        module, _, kind = name.rpartition(".")
        is_layer = kind == "weight" and len(shape) > 1 and min(shape[:2]) >= MIN_CHANNELS
        if is_layer and recipe.may_quantize(module) and (len(shape) == 2 or not recipe.dynamic):
            return 1
        return 4 if recipe.high == "fp32" else 2

    shapes = _shapes(stages.request.preset)
    return sum(math.prod(shape) * width(name, shape) for name, shape in shapes.items())


def weight_bytes(preset: Preset) -> int:
    """Bytes of the preset's weights in FP32."""
    return 4 * sum(map(math.prod, _shapes(preset).values()))


@functools.lru_cache(maxsize=1)
def _shapes(preset: Preset) -> dict[str, tuple[int, ...]]:
    from dreamactor.networks import build_meta

    return {name: tuple(value.shape) for name, value in build_meta(preset).named_parameters()}


def available_memory() -> int | None:
    """Bytes that can be had without swapping, within the container's limit, or None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        found = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None
    limits = (cgroup / name for cgroup in CGROUPS for name in ("memory.max", "memory.limit_in_bytes"))
    return min([found, *(limit for path in limits if (limit := _whole(path)) is not None)])


def _whole(path: Path) -> int | None:
    """The number in a file, None where there is no file or it says "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
