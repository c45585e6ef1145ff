"""Small real ONNX models and a set made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dreamactor.engines import EngineFiles, NetworkRecord, onnxruntime, write_set
from dreamactor.engines.trust import specs
from dreamactor.engines.verify import Example
from dreamactor.presets import preset

MakeSet = Callable[..., Path]


def edit(folder: Path, change: Callable[[dict], None]) -> None:
    """Rewrites the manifest of the set in `folder` without looking after its signature."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def linear_model(path: Path, scale: float = 2.0, external: bool = False) -> Path:
    """y = scale · x @ W for float32 x [1, 8]; W is a seeded 8x8 matrix."""
    weight = (np.random.default_rng(0).standard_normal((8, 8)) * scale).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


def record(name: str, **changes: str) -> NetworkRecord:
    """As the manifest of a `tiny` set has it."""
    inputs, outputs = specs(preset("tiny"), name)
    values = {
        "precision": "fp32",
        "runtime": "onnxruntime",
        "runtime_version": onnxruntime.version(),
        "architecture": "any",
    }
    return NetworkRecord(name=name, files=(), inputs=inputs, outputs=outputs, **{**values, **changes})


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    """Writes a set of linear models called after `networks`, with `example` if given, and returns its folder."""

    def make(
        *networks: str,
        folder: str = "set",
        external: bool = False,
        scale: float = 2.0,
        example: Example | None = None,
        **changes: str,
    ) -> Path:
        files = []
        source = tmp_path / f"source-{folder}"
        source.mkdir(exist_ok=True)
        for name in networks or ("denoiser",):
            path = linear_model(source / f"{name}.onnx", scale, external)
            paths = (path, path.with_name(path.name + ".data")) if external else (path,)
            stored = source / f"{name}.example" if example else None
            if example and stored:
                stored.write_bytes(example.to_bytes())
            files.append(EngineFiles(record(name, **changes), paths, stored))
        write_set(tmp_path / folder, preset("tiny"), "fp32", "cpu", files)
        return tmp_path / folder

    return make
