"""The graph rewritten for ONNX Runtime computes what the exported one does, and no more than that is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dreamactor.engines.onnxruntime import OnnxRuntimeSession
from dreamactor.engines.onnxruntime_graph import describe, optimize, rewrite
from dreamactor.interfaces import Size, random_inputs
from dreamactor.presets import preset

TINY = preset("tiny")
SIZES = [Size.of(TINY), Size(2, 32, 64, references=3), Size(5, 96, 64, references=1, batch=1)]


@pytest.mark.parametrize("name", ["denoiser", "pose_encoder", "vae_encoder"])
def test_same_function_at_every_size(tiny_onnx: dict[str, Path], name: str, tmp_path: Path) -> None:
    counts = optimize(tiny_onnx[name], tmp_path / "rewritten.onnx")
    onnx.checker.check_model(str(tmp_path / "rewritten.onnx"))
    before = OnnxRuntimeSession(tiny_onnx[name], name, threads=1)
    after = OnnxRuntimeSession(tmp_path / "rewritten.onnx", name, threads=1)

    assert before.inputs == after.inputs
    assert describe(counts)
    for seed, size in enumerate(SIZES):
        inputs = random_inputs(TINY, name, size, seed)
        expected, found = before.run(inputs), after.run(inputs)
        for key, value in expected.items():
            assert np.linalg.norm(found[key] - value) <= 2e-6 * np.linalg.norm(value)


def test_denoiser_is_rewritten_everywhere(tiny_onnx: dict[str, Path], tmp_path: Path) -> None:
    depth = TINY.transformer.depth

    counts = optimize(tiny_onnx["denoiser"], tmp_path / "denoiser.onnx")

    kinds = [node.op_type for node in onnx.load(tmp_path / "denoiser.onnx").graph.node]
    assert counts["attention"] == kinds.count("MultiHeadAttention") == 2 * depth - 1
    assert counts["split projection"] == 2 * depth
    assert "FlashAttention" not in kinds
    assert kinds.count("FaceAttention") == depth


@pytest.mark.parametrize("name", ["pose_encoder", "vae_encoder"])
def test_no_patches_are_gathered_before_the_first_convolution(
    tiny_onnx: dict[str, Path], name: str, tmp_path: Path
) -> None:
    counts = optimize(tiny_onnx[name], tmp_path / "rewritten.onnx")

    nodes = onnx.load(tmp_path / "rewritten.onnx").graph.node
    assert counts["strided convolution"] == 1
    assert not [node for node in nodes if node.op_type == "Transpose" and len(node.attribute[0].ints) == 6]
    first = next(node for node in nodes if node.op_type == "Conv")
    assert {a.name: list(a.ints) for a in first.attribute}["strides"] == [4, 4]


def test_what_only_looks_alike_is_left_alone() -> None:
    """A split in three of a product with a variable weight, and a division that is no norm."""
    text = """<ir_version: 10, opset_import: ["" : 23]>
    agraph (float[2,3,6] x, float[6,6] w) => (float[2,3,2] a, float[2,3,2] b, float[2,3,2] c, float[2,3,6] d)
    <float[6] bias = {1, 2, 3, 4, 5, 6}>
    {
        product = MatMul(x, w)
        sum = Add(product, bias)
        a, b, c = Split<axis = 2, num_outputs = 3>(sum)
        d = Div(x, sum)
    }"""
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))

    counts = rewrite(model)

    assert not any(counts.values())
    assert [node.op_type for node in model.graph] == ["MatMul", "Add", "Split", "Div"]
