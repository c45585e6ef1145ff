"""Denormal numbers are zero in our sessions, in every thread that works for them, and nowhere else."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from onnx import TensorProto, helper

from dreamactor.engines.denormals import denormals_as_zero
from dreamactor.engines.onnxruntime import OnnxRuntimeSession

SMALL = np.full(1 << 20, 1e-39, np.float32)  # so many that all threads take part
ONE = np.ones(1, np.float32)

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="SSE's own")


def kept() -> float:
    """The share of denormal products that this thread keeps."""
    return float((SMALL * ONE > 0).mean())


def test_inside_they_are_zero_and_afterwards_as_before() -> None:
    assert kept() == 1
    with denormals_as_zero():
        assert kept() == 0
        with denormals_as_zero():
            pass
        assert kept() == 0
    assert kept() == 1
    with pytest.raises(KeyError), denormals_as_zero():
        raise KeyError
    assert kept() == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_a_session_takes_them_as_zero_and_leaves_its_caller_alone(threads: int) -> None:
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, [len(SMALL)]), value("one", TensorProto.FLOAT, [1])]
    outputs = [value("y", TensorProto.FLOAT, [len(SMALL)])]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "one"], ["y"])], "product", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = OnnxRuntimeSession(model.SerializeToString(), "product", threads)
    assert kept() == 1  # it may be the first of the process
    assert not session.run({"x": SMALL, "one": ONE})["y"].any()
    assert kept() == 1
    session.close()
