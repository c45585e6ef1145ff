"""Each engine beside its FP32 network: on which inputs, and how near its outputs must come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dreamactor.engines.session import Array, TensorSpec
from dreamactor.engines.shapes import Size, input_shapes
from dreamactor.export.recipe import Recipe
from dreamactor.presets import Preset

DRAWN = 2  # inputs that an engine runs on where none were recorded
FP32_GATE = 40.0  # dB that an FP32 engine must reach: TensorRT may use TF32's 10 bits


def gate(precision: str, recipe: Recipe) -> float:
    """The least signal-to-noise in dB of a network that is in `precision`, in a set made by `recipe`."""
    return FP32_GATE if precision == "fp32" else recipe.snr_gate


def recorded(samples: Path, network: str) -> list[dict[str, Array]]:
    """The last of the recorded inputs: ranges are taken from the others."""
    from dreamactor.export.calibrate import load_samples

    return list(load_samples(samples, network).feeds())[-1:]


def drawn(preset: Preset, network: str, inputs: Iterable[TensorSpec]) -> Iterator[dict[str, Array]]:
    """Noise of the preset's size, the same each time: an FP32 set on the CPU records no inputs."""
    draw = np.random.default_rng(0)
    shapes = input_shapes(preset, network, Size(preset.latent_frames, preset.height, preset.width))
    specs = tuple(inputs)
    for _ in range(DRAWN):
        yield {
            spec.name: draw.integers(0, 256, shapes[spec.name], np.uint8)
            if spec.dtype == "uint8"
            else draw.standard_normal(shapes[spec.name], np.float32)
            for spec in specs
        }
