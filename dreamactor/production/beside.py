"""Each engine beside its FP32 network: on which inputs, and how near its outputs must come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dreamactor.engines.gpu import local_gpu
from dreamactor.engines.manifest import NetworkRecord
from dreamactor.engines.session import Array, TensorSpec
from dreamactor.engines.shapes import Size, input_shapes
from dreamactor.engines.trust import runs_on
from dreamactor.export.recipe import Recipe
from dreamactor.presets import Preset
from dreamactor.production.rehearsal import rehearsal

DRAWN = 2  # inputs that an engine runs on where none were recorded
FP32_GATE = 40.0  # dB that an FP32 engine must reach: TensorRT may use TF32's 10 bits


def gate(precision: str, recipe: Recipe) -> float:
    """The least signal-to-noise in dB of a network that is in `precision`, in a set made by `recipe`."""
    return FP32_GATE if precision == "fp32" else recipe.snr_gate


def is_for_this_machine(record: NetworkRecord) -> bool:
    """Whether an engine should run here: it is no good where it does not. Others were built for another GPU."""
    gpu = local_gpu()
    return runs_on(record.architecture, gpu.architecture if gpu else None)


def feeds(samples: Path | None, preset: Preset, record: NetworkRecord) -> Iterable[dict[str, Array]]:
    """The last of the inputs recorded in `samples` (ranges are taken from the others); noise of the size that the
    preset is rehearsed at, the same each time, for a set that records none."""
    if samples is None:
        return drawn(rehearsal(preset), record.name, record.inputs)
    from dreamactor.export.calibrate import load_samples

    return list(load_samples(samples, record.name).feeds())[-1:]


def drawn(preset: Preset, network: str, inputs: Iterable[TensorSpec]) -> Iterator[dict[str, Array]]:
    """`DRAWN` inputs of `network`, noise of the preset's size."""
    draw, inputs = np.random.default_rng(0), tuple(inputs)
    shapes = input_shapes(preset, network, Size(preset.latent_frames, preset.height, preset.width, batch=preset.rows))
    for _ in range(DRAWN):
        yield {
            spec.name: draw.integers(0, 256, shapes[spec.name], np.uint8)
            if spec.dtype == "uint8"
            else draw.standard_normal(shapes[spec.name], np.float32)
            for spec in inputs
        }
