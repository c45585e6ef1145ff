"""Plugin definitions against the real TensorRT bindings, over stub libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from dreamactor.kernels import aot, onnx, plugin
from tests.kernels import tensorrt_bindings
from tests.kernels.kernel_testing import Numbers

pytestmark = pytest.mark.skipif(not tensorrt_bindings.available(), reason=tensorrt_bindings.MISSING)
SHAPES = {"FaceAttention": [(2, 4, 5, 60, 128), (2, 4, 5, 4, 128), (2, 4, 5, 4, 128)]}
OTHERS = (2, 4, 300, 128)

# In a process of its own: the module is called tensorrt, and other tests may look for the real one.
PROGRAM = """
import json, re, sys
sys.path.insert(0, sys.argv[1])
import tensorrt as trt
import tensorrt.plugin as trtp
from tensorrt.plugin import _lib, _tensor
from dreamactor.kernels import plugin

names = plugin.register(trt, 90, lazy=True)
again = plugin.register(trt, 90, lazy=True)  # a second time is harmless
ATTRIBUTES = {"FlashAttention": [0.09], "FaceAttention": [0.09, 1], "FlashAttentionFP8": [16, 0.09]}  # in any order

class Builder:  # in place of TensorRT's expressions, which the stub libraries lack: numbers
    def constant(self, value):
        return value

    def operation(self, kind, a, b):
        kinds = trt.DimensionOperation
        return {kinds.PROD: a * b, kinds.CEIL_DIV: -(-a // b), kinds.MAX: max(a, b)}[kind]

_tensor.SymIntExpr._exprBuilder = Builder()

def tensor(shape, dtype):
    desc = trtp.TensorDesc(trtp.ShapeExprs.from_tuple(shape), dtype)
    desc.shape = trtp.Shape(shape)
    return desc

report = {}
for name in names:
    definition = _lib.QDP_REGISTRY[f"dreamactor::{name}"]
    count = len(definition.input_tensor_names)
    types = {p.name: p.types for p in plugin.PLUGINS}[name]
    native = {"half": trt.DataType.BF16, "FP8": trt.DataType.FP8, "FP32": trt.DataType.FLOAT}
    shapes = json.loads(sys.argv[2])[name]
    inputs = [tensor(tuple(shape), native[kind]) for shape, kind in zip(shapes, types)]
    given = ATTRIBUTES.get(name, [])
    named = {k: next(v for v in given if type(v) is kind) for k, kind in definition.input_attrs.items()}
    outputs = definition.register_func(*inputs, **named)  # as tensorrt.plugin._plugin_class calls it
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    combination, = definition.autotune_func(*inputs, *given, outputs)
    combinations = combination._get_combinations()
    tactics = list(combination._tactics)
    kernels, launches = [], []
    for tactic in tactics[:1]:
        kernel, ptx, launch, scalars = definition.aot_impl_func(*inputs, *given, outputs, tactic)
        entry = re.search(r"\\.entry (\\w+)\\((.*?)\\)", ptx, re.S)
        kernels.append([kernel == entry[1], entry[2].count(".param"), count + len(scalars) + len(outputs)])
        sizes = (launch.grid_x, launch.grid_y, launch.grid_z, launch.block_x, launch.shared_mem)
        launches.append({"scalars": [s._expr for s in scalars], "sizes": [size._expr for size in sizes]})
    report[name] = {
        "attributes": {k: v.__name__ for k, v in definition.input_attrs.items()},
        "outputs": [[[size._expr for size in o.shape_expr], str(o.dtype)] for o in outputs],
        "types": [[str(t) for t in c.types] for c in combinations],
        "tactics": tactics, "kernels": kernels, "launches": launches, "again": again == names,
    }
print(json.dumps(report))
"""


def shapes_of(entry: plugin.Plugin) -> list[tuple[int, ...]]:
    return SHAPES.get(entry.name, [OTHERS] * len(entry.inputs))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    shapes = {entry.name: shapes_of(entry) for entry in plugin.PLUGINS}
    command = [sys.executable, "-c", PROGRAM, str(tensorrt_bindings.FOLDER), json.dumps(shapes)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_every_node_has_a_plugin(report: dict[str, Any]) -> None:
    assert set(report) == set(onnx.FUNCTIONS)
    assert all(entry["again"] for entry in report.values())


def test_attributes_are_those_of_the_nodes(report: dict[str, Any]) -> None:
    standard = set(onnx.PLUGIN_ATTRIBUTES)
    for name, build in onnx.FUNCTIONS.items():
        assert set(report[name]["attributes"]) == set(build().attribute) - standard, name
        assert len(report[name]["types"][0]) == len(build().input) + len(build().output)


def test_types_and_outputs(report: dict[str, Any]) -> None:
    for name in ("FlashAttention", "FaceAttention", "FlashAttentionFP8"):
        assert report[name]["outputs"] == [[[2, 300, 512], "DataType.BF16"]]
    scale = [[2, 4, 3], "DataType.FLOAT"]
    assert report["QuantizeBlocks"]["outputs"] == [[[2, 4, 300, 128], "DataType.FP8"], scale]
    assert report["QuantizeValues"]["outputs"] == [[[2, 4, 128, 384], "DataType.FP8"], scale]
    assert {tuple(set(types)) for types in report["FlashAttention"]["types"]} == {
        ("DataType.HALF",),
        ("DataType.BF16",),
    }
    assert report["FlashAttentionFP8"]["types"][0][-1] == "DataType.BF16"


def test_kernel_arguments_are_inputs_scalars_outputs(report: dict[str, Any]) -> None:
    """The PTX entry takes as many parameters as TensorRT will pass, and its name is the one reported."""
    for name, entry in report.items():
        for same_name, parameters, passed in entry["kernels"]:
            assert same_name, name
            assert parameters == passed, name


def test_launches_are_those_of_the_compiled_kernels(report: dict[str, Any]) -> None:
    """Scalars and grid as `test_plugin_launch` runs them, threads and shared memory as the compiler says."""
    given = {"scale": 0.09, "window": 1, "group": 4}
    for entry in plugin.PLUGINS:
        (launch,) = report[entry.name]["launches"]
        shapes, tile = shapes_of(entry), entry.tiles(90, 128)[0]
        compiled = aot.compile_kernel(entry.source(tile, 128, "bf16", given, 90), 90)
        assert launch["scalars"] == list(entry.scalars(shapes)), entry.name
        expected = [*entry.grid(Numbers, shapes, tile), 32 * tile.num_warps, compiled.shared]
        assert launch["sizes"] == expected, entry.name
        assert compiled.shared > 0, entry.name


def test_every_tile_that_needs_no_descriptors_is_a_tactic(report: dict[str, Any]) -> None:
    for entry in plugin.PLUGINS:
        assert report[entry.name]["tactics"] == list(range(1, 1 + len(entry.tiles(90, 128))))
        if entry.name in ("FlashAttention", "FlashAttentionFP8"):
            assert len(entry.tiles(90, 128)) >= 3
    with pytest.raises(ValueError, match="no tile for sm_80"):
        plugin._tactics(plugin.PLUGINS[2], 80, 128)
