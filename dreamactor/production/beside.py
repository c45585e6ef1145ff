"""Each engine beside its FP32 network: on which input, how near its outputs must come, and on which machine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamactor.engines.gpu import local_gpu
from dreamactor.engines.manifest import NetworkRecord
from dreamactor.engines.store import Entry
from dreamactor.engines.trust import runs_on
from dreamactor.engines.verify import Example
from dreamactor.export.recipe import Recipe
from dreamactor.interfaces import Size, random_inputs
from dreamactor.production.keys import digest

if TYPE_CHECKING:
    from dreamactor.production.stages import Stages

FP32_GATE = 40.0  # dB that an FP32 engine must reach: TensorRT may use TF32's 10 bits


def gate(precision: str, recipe: Recipe) -> float:
    """The least signal-to-noise in dB of a network that is in `precision`, in a set made by `recipe`."""
    return FP32_GATE if precision == "fp32" else recipe.snr_gate


def is_for_this_machine(record: NetworkRecord) -> bool:
    """Whether an engine should run here: it is no good where it does not. Others were built for another GPU."""
    return runs_on(record, local_gpu())


def example(stages: Stages, network: str) -> Entry:
    """The `Example` that goes with every set of these weights, as one file: so a set is verified where no store is.

    Its input is the last of those recorded (ranges are taken from the others), or for a set that records none noise of
    the size that the preset is rehearsed at.
    """
    keys, source = stages.keys, stages.onnx(network)

    def make(folder: Path) -> Mapping[str, Any]:
        stages.on_progress(f"running {network} in FP32", 0, 0)
        with ExitStack() as opened:
            session = stages.open({network: source}, opened)[network]
            if keys.records:
                inputs = stages.feeds(network).held_out
            else:
                inputs = random_inputs(stages.rehearsal, network, Size.of(stages.rehearsal))
            content = Example(inputs, session.run(inputs)).to_bytes()
        (folder / f"{network}.example.safetensors").write_bytes(content)
        return {}

    key = {
        "network": network, "onnx": digest(keys.onnx(network)), "code": keys.code["judge"],
        "samples": digest(keys.samples()) if keys.records else "",
    }  # fmt: skip
    return stages.store.get("example", key, make)[0]
