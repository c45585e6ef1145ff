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
from dreamactor.export.quantize import prepare
from dreamactor.export.recipes import recipe
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


@pytest.mark.parametrize("asked", [AUTO, PLUGIN])
def test_fp8_writes_attention_out_and_that_is_said(tiny_onnx: dict[str, Path], tmp_path: Path, asked: str) -> None:
    onnx.save(prepare(onnx.load(tiny_onnx["denoiser"]), recipe("fp8")), tmp_path / "fp8.onnx")
    chosen, reason = ways(asked, tensorrt("sm89"), attention_nodes(tmp_path / "fp8.onnx"), 128, "fp16")
    assert chosen == (NATIVE,)
    assert "no attention node" in reason


def test_graphs_name_the_nodes_that_a_plugin_takes(tiny_onnx: dict[str, Path]) -> None:
    depth = PRESETS["tiny"].transformer.depth
    kinds = attention_nodes(tiny_onnx["denoiser"])
    assert (kinds.count("FlashAttention"), kinds.count("FaceAttention")) == (2 * depth - 1, depth)
    assert attention_nodes(tiny_onnx["vae_encoder"]) == ()
    assert expected_layers(tiny_onnx["denoiser"], plugin=True) == {"PLUGIN_V3": len(kinds)}
    assert expected_layers(tiny_onnx["denoiser"], plugin=False) == {"ATTENTION_INPUT": len(kinds)}


def products(path: Path, count: int, factor: float = 1.0) -> Path:
    """y = x (factor I)^count for x [64,256]: more products, more time."""
    weight = numpy_helper.from_array(np.eye(256, dtype=np.float32) * np.float32(factor), "w")
    names = ["x", *(f"t{index}" for index in range(count - 1)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in itertools.pairwise(names)]
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 256]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def open_plan(path: Path) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(path, path.stem, threads=1)


def test_the_faster_engine_is_taken_and_both_times_are_said(tmp_path: Path) -> None:
    built = {NATIVE: products(tmp_path / "slow.onnx", 400), PLUGIN: products(tmp_path / "fast.onnx", 1)}
    feed = {"x": np.ones((64, 256), np.float32)}
    for first in (built, dict(reversed(built.items()))):
        choice = fastest(first, open_plan, feed, 22.0)
        assert (choice.way, choice.reason) == (PLUGIN, "")
        assert choice.milliseconds[NATIVE] > choice.milliseconds[PLUGIN] > 0


@pytest.mark.parametrize(("factor", "decibels"), [(1.5, "6.0"), (float("nan"), "-inf")])
def test_a_faster_engine_with_another_output_is_left_out(tmp_path: Path, factor: float, decibels: str) -> None:
    built = {NATIVE: products(tmp_path / "slow.onnx", 20), PLUGIN: products(tmp_path / "wrong.onnx", 1, factor)}
    feed = {"x": np.ones((64, 256), np.float32)}
    choice = fastest(built, open_plan, feed, 22.0)
    assert (choice.way, choice.milliseconds) == (NATIVE, {})
    assert f"output is {decibels} dB from TensorRT's own, 22 dB are needed" in choice.reason
    if factor == 1.5:
        assert fastest(built, open_plan, feed, least_snr=5.0).way == PLUGIN


# What the builder's process does before it parses, over the real bindings; the registry itself is TensorRT's library.
PROGRAM = """
import json, re, sys
sys.path.insert(0, sys.argv[1])
import tensorrt as trt
import tensorrt.plugin as trtp
from tensorrt.plugin import _lib, _tensor
from dreamactor.engines import build_worker
from dreamactor.errors import EngineError
from dreamactor.kernels import plugin

def registered(architecture):
    request = {"runtime": "tensorrt", "architecture": architecture}
    build_worker._register_plugins(trt, request, lazy=True)
    return sorted(_lib.QDP_REGISTRY)

refused = ""
try:
    registered(100)
except EngineError as error:
    refused = str(error)
names = registered(int(sys.argv[2]))
expression = _tensor.ShapeExprs(4, _is_dummy=True)
q = trtp.TensorDesc(expression, trt.DataType.HALF)
q.shape = trtp.Shape((2, 4, 300, 128))
definition = _lib.QDP_REGISTRY["dreamactor::FlashAttention"]
outputs = definition.register_func(*[q] * 5, 0.09)
combination, = definition.autotune_func(*[q] * 5, 0.09, (outputs,))
tactics = list(combination._tactics)
_, ptx, _, _ = definition.aot_impl_func(*[q] * 5, 0.09, (outputs,), tactics[-1])
target = re.search(r"^\\.target (\\w+)", ptx, re.M)[1]
try:
    _lib.QDP_REGISTRY["dreamactor::QuantizeBlocks"].autotune_func(q, q, ())
    fp8 = ""
except ValueError as error:
    fp8 = str(error)
print(json.dumps({"refused": refused, "names": names, "tactics": tactics, "target": target, "fp8": fp8}))
"""


@pytest.mark.skipif(not tensorrt_bindings.available(), reason=tensorrt_bindings.MISSING)
@pytest.mark.parametrize(("architecture", "table", "target"), [(86, 89, "sm_86"), (121, 120, "sm_121a")])
def test_builder_compiles_for_its_own_gpu_the_tiles_that_it_shares(architecture: int, table: int, target: str) -> None:
    """PTX does not load on an earlier card than its target, and that of an "a" target on no other."""
    command = [sys.executable, "-c", PROGRAM, str(tensorrt_bindings.FOLDER), str(architecture)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["names"] == sorted(entry.id for entry in plugin.PLUGINS)
    assert "no attention kernels for sm100" in found["refused"]
    flash = next(entry for entry in plugin.PLUGINS if entry.name == "FlashAttention")
    assert found["tactics"] == plugin._tactics(flash, table, 128)
    assert found["target"] == target
    assert ("no tile for sm_86" in found["fp8"]) == (architecture < 89)  # where there is no FP8
