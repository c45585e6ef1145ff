"""What each engine of a set is compared on: an input and what FP32 makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamactor.engines.store import Entry
from dreamactor.engines.verify import Example
from dreamactor.interfaces import Size, random_inputs
from dreamactor.production.keys import digest

if TYPE_CHECKING:
    from dreamactor.production.stages import Stages


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
