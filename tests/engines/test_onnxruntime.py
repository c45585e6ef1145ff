"""Which of a session's nodes run on the CPU, asked of ONNX Runtime itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from dreamactor.engines.onnxruntime import _RECORD, CPU, heavy_on_cpu, session_options

from .conftest import linear_model

needs_record = pytest.mark.skipif(
    not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"), reason="onnxruntime before 1.24"
)


def opened(path: Path) -> Any:
    options = session_options(threads=1)
    options.add_session_config_entry(_RECORD, "1")
    return onnxruntime.InferenceSession(str(path), options, providers=[CPU])


@needs_record
def test_products_of_matrices_are_heavy_and_shapes_are_not(tmp_path: Path) -> None:
    path = linear_model(tmp_path / "m.onnx")
    assert heavy_on_cpu(opened(path)) == ["MatMul"]
    model = onnx.load(path)
    model.graph.node[0].CopyFrom(onnx.helper.make_node("Add", ["x", "weight"], ["y"]))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    onnx.save(model, path)
    assert heavy_on_cpu(opened(path)) == []
