"""The tiny networks' FP32 ONNX and an input of each, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from dreamactor.export.calibrate import Samples, save_samples
from dreamactor.export.graphs import example_inputs
from dreamactor.presets import preset


@pytest.fixture(scope="session")
def tiny_model(tiny_onnx: dict[str, Path]) -> Callable[[str], onnx.ModelProto]:
    """The FP32 ONNX of a network, a fresh copy each time."""
    return lambda name: onnx.load(tiny_onnx[name])


@pytest.fixture(scope="session")
def tiny_feed() -> Callable[..., dict[str, np.ndarray]]:
    """Random inputs of a network by name and seed."""

    def feed(name: str, seed: int = 0) -> dict[str, np.ndarray]:
        return {key: value.numpy() for key, value in example_inputs(preset("tiny"), name, seed=seed).items()}

    return feed


@pytest.fixture
def tiny_samples(tmp_path: Path, tiny_feed: Callable[..., dict[str, np.ndarray]]) -> Callable[[str], Samples]:
    return lambda name: save_samples(tmp_path, name, [tiny_feed(name, seed) for seed in range(2)])
