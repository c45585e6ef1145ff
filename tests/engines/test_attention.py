"""Which attention an engine gets: where a kernel exists, both ways are built and the faster one is kept."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dreamactor.engines.attention import AUTO, NATIVE, PLUGIN, fastest, ways
from dreamactor.engines.onnxruntime import OnnxRuntimeSession
from dreamactor.engines.target import Target, parse_target
from dreamactor.errors import EngineError
from dreamactor.kernels import plugin
from dreamactor.presets import PRESETS
from dreamactor.production.lowering import attention_nodes, expected_layers
from tests.kernels import tensorrt_bindings

BOTH = ("FlashAttention", "FaceAttention")


def tensorrt(architecture: str) -> Target:
    return Target("tensorrt", "tensorrt", architecture)


@pytest.mark.parametrize("architecture", ["sm80", "sm86", "sm89", "sm90", "sm120"])
def test_where_kernels_exist_both_ways_are_built(architecture: str) -> None:
    for preset in (PRESETS["puppet"], PRESETS["m1"]):
        assert ways(AUTO, tensorrt(architecture), BOTH, preset.transformer.head_dim, "fp16") == ((NATIVE, PLUGIN), "")
    assert ways(PLUGIN, tensorrt(architecture), BOTH, 128, "bf16") == ((PLUGIN,), "")
    assert ways(NATIVE, tensorrt(architecture), BOTH, 128, "bf16") == ((NATIVE,), "")
    assert ways(AUTO, tensorrt(architecture), (), 128, "fp16") == ((NATIVE,), "")


@pytest.mark.parametrize(
    ("target", "size", "dtype", "reason"),
    [
        (parse_target("sm89"), 128, "fp16", "tensorrt_rtx has no plugins"),
        (tensorrt("sm100"), 128, "fp16", "no kernels for sm100"),
        (tensorrt("sm90"), 40, "fp16", "no FlashAttention kernel for sm90 and heads of 40"),
        (tensorrt("sm90"), 128, "fp32", "FP16 or BF16, not in fp32"),
    ],
)
def test_where_none_exists_the_reason_is_kept_or_raised(target: Target, size: int, dtype: str, reason: str) -> None:
    chosen, said = ways(AUTO, target, BOTH, size, dtype)
    assert chosen == (NATIVE,)
    assert reason in said
    with pytest.raises(EngineError, match=reason):
        ways(PLUGIN, target, BOTH, size, dtype)


def test_graphs_name_the_nodes_that_a_plugin_takes(tiny_onnx: dict[str, Path]) -> None:
    depth = PRESETS["tiny"].transformer.depth
    kinds = attention_nodes(tiny_onnx["denoiser"])
    assert (kinds.count("FlashAttention"), kinds.count("FaceAttention")) == (2 * depth - 1, depth)
    assert attention_nodes(tiny_onnx["vae_encoder"]) == ()
    assert expected_layers(tiny_onnx["denoiser"], plugin=True) == {"PLUGIN_V3": len(kinds)}
    assert expected_layers(tiny_onnx["denoiser"], plugin=False) == {"ATTENTION_INPUT": len(kinds)}


def products(path: Path, count: int) -> Path:
    """y = x W^count for x [1,256]: more products, more time."""
    weight = numpy_helper.from_array(np.eye(256, dtype=np.float32), "w")
    names = ["x", *(f"t{index}" for index in range(count - 1)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in itertools.pairwise(names)]
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 256]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_the_faster_engine_is_taken_and_both_times_are_said(tmp_path: Path) -> None:
    built = {NATIVE: products(tmp_path / "slow.onnx", 400), PLUGIN: products(tmp_path / "fast.onnx", 1)}
    feed = {"x": np.ones((64, 256), np.float32)}
    for first in (built, dict(reversed(built.items()))):
        way, milliseconds = fastest(first, lambda path: OnnxRuntimeSession(path, path.stem, threads=1), feed)
        assert way == PLUGIN
        assert milliseconds[NATIVE] > milliseconds[PLUGIN] > 0


# What the builder's process does before it parses, over the real bindings; the registry itself is TensorRT's library.
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
import tensorrt as trt
import tensorrt.plugin as trtp
from dreamactor.engines import build_worker
from dreamactor.kernels import plugin

def registered(architecture):
    request = {"runtime": "tensorrt", "architecture": architecture}
    build_worker._register_plugins(trt, request, lazy=True)
    return sorted(trtp._lib.QDP_REGISTRY)

refused = ""
try:
    registered(100)
except build_worker.BuildFailed as error:
    refused = str(error)
names = registered(86)
expression = trtp._tensor.ShapeExprs(4, _is_dummy=True)
q = trtp.TensorDesc(expression, trt.DataType.HALF)
q.shape = trtp.Shape((2, 4, 300, 128))
definition = trtp._lib.QDP_REGISTRY["dreamactor::FlashAttention"]
outputs = definition.register_func(*[q] * 5, 0.09)
combination, = definition.autotune_func(*[q] * 5, 0.09, (outputs,))
print(json.dumps({"refused": refused, "names": names, "tactics": list(combination._tactics)}))
"""


@pytest.mark.skipif(not tensorrt_bindings.available(), reason=tensorrt_bindings.MISSING)
def test_builder_registers_the_kernels_of_its_gpu_with_tensorrt_11() -> None:
    command = [sys.executable, "-c", PROGRAM, str(tensorrt_bindings.FOLDER)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["names"] == sorted(entry.id for entry in plugin.PLUGINS)
    assert "no attention kernels for sm100" in found["refused"]
    flash = next(entry for entry in plugin.PLUGINS if entry.name == "FlashAttention")
    assert found["tactics"] == plugin._tactics(flash, 89, 128, shared_opt_in=True)  # an sm_86 has sm_89's table
