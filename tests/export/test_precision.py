"""FP16 and BF16 graphs: typed throughout, close to FP32, with the sensitive parts left in FP32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dreamactor.export.attention import expand_attention, has_mask, inline
from dreamactor.export.onnxgraph import ATTENTION, PRODUCTS, module_of
from dreamactor.export.precision import high_nodes, lower
from dreamactor.export.quality import apply, expand_wide_attention, keep_high, run_model, sensitivities, worst
from dreamactor.export.quantize import prepare
from dreamactor.export.recipes import recipe
from dreamactor.interfaces import NETWORKS

Model = Callable[[str], onnx.ModelProto]
Feed = Callable[..., dict[str, np.ndarray]]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("dtype", "least"), [("fp16", 40.0), ("bf16", 22.0)])
def test_lowered_network_is_close_and_valid(
    tiny_model: Model, tiny_feed: Feed, name: str, dtype: str, least: float
) -> None:
    model, feed = tiny_model(name), tiny_feed(name)
    low = lower(model, dtype, recipe(dtype).keep_fp32)
    onnx.checker.check_model(low)
    assert [(v.name, v.type.tensor_type.elem_type) for v in low.graph.output] == [
        (v.name, v.type.tensor_type.elem_type) for v in model.graph.output
    ]
    assert worst(run_model(model, feed), run_model(low, feed)) > least


def test_weights_are_stored_in_half_the_bytes(tiny_model: Model) -> None:
    def weight_bytes(model: onnx.ModelProto) -> int:
        return sum(len(t.raw_data) for t in model.graph.initializer if "blocks" in t.name and len(t.dims) >= 1)

    model = tiny_model("denoiser")
    low = lower(model, "fp16", ())
    assert weight_bytes(low) == weight_bytes(model) / 2


def test_every_pattern_of_modules_that_are_kept_stays_fp32(tiny_model: Model) -> None:
    model, kept = tiny_model("denoiser"), ("transformer.blocks.0.ffn.0", "transformer.blocks.1.ffn.2")
    high = high_nodes(model, kept)
    for module in kept:
        nodes = {node.output[0] for node in model.graph.node if module_of(node) == module}
        assert nodes
        assert nodes <= high


def test_sines_of_the_timestep_and_the_solver_stay_fp32(tiny_model: Model) -> None:
    low = lower(tiny_model("denoiser"), "fp16", ())
    half = {t.name for t in low.graph.initializer if t.data_type == TensorProto.FLOAT16}
    casts = {n.output[0] for n in low.graph.node if n.op_type == "Cast" and n.attribute[0].i == TensorProto.FLOAT16}
    for node in low.graph.node:
        if node.op_type in ("Sin", "Cos"):
            assert not set(node.input) & (half | casts)
    makers = {name: node for node in low.graph.node for name in node.output}
    solver = makers["latent_next"]
    assert solver.op_type == "Add"  # not a Cast: computed in FP32


def test_norms_do_not_overflow(tiny_model: Model, tiny_feed: Feed) -> None:
    """Squares of activations of a few hundred exceed FP16; the norm's reduction must not see FP16."""
    weights = np.full((4, 4, 1, 1), 100.0, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["h"]),
            helper.make_node("ReduceL2", ["h", "axes"], ["n"]),
            helper.make_node("Clip", ["n", "least"], ["c"]),
            helper.make_node("Div", ["h", "c"], ["d"]),
            helper.make_node("Conv", ["d", "w"], ["y"]),
        ],
        "norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 2, 2])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array([1]), "axes"),
            numpy_helper.from_array(np.array(1e-12, np.float32), "least"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    feed = {"x": np.full((1, 4, 2, 2), 2.0, np.float32)}
    zeros = {"x": np.zeros((1, 4, 2, 2), np.float32)}
    low = lower(model, "fp16")
    assert worst(run_model(model, feed), run_model(low, feed)) > 55
    assert not run_model(low, zeros)["y"].any()  # 1e-12 is 0 in FP16, and 0/0 would be NaN


def test_weights_beyond_fp16_are_its_largest_and_not_infinite() -> None:
    large = np.array([1e6, -1e6], np.float32)
    nodes = [helper.make_node("Mul", ["x", "large"], ["h"]), helper.make_node("MatMul", ["h", "eye"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy")
    values = {"large": large, "eye": np.eye(2, dtype=np.float32)}
    weights = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    low = lower(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), "fp16")
    found = run_model(low, {"x": np.ones((1, 2), np.float32)})["y"]
    np.testing.assert_array_equal(found, [[65504, -65504]])


@pytest.mark.parametrize(("chosen", "left"), [(lambda node: True, 0), (lambda node: not has_mask(node), 2)])
def test_attention_written_out_is_the_same(
    tiny_model: Model, tiny_feed: Feed, chosen: Callable[[onnx.NodeProto], bool], left: int
) -> None:
    model, feed = tiny_model("denoiser"), tiny_feed("denoiser")
    expanded = expand_attention(tiny_model("denoiser"), chosen)
    onnx.checker.check_model(expanded)
    assert Counter(node.op_type for node in expanded.graph.node)["Attention"] == left
    assert worst(run_model(model, feed), run_model(expanded, feed)) > 90
    modules = {module_of(node) for node in expanded.graph.node if node.op_type == "Softmax"}
    assert "transformer.blocks.0.attention" in modules


def types_into(model: onnx.ModelProto, feed: dict[str, np.ndarray], operators: Collection[str]) -> set[str]:
    """The types of what the nodes of these operators read."""
    names = [node.input[0] for node in model.graph.node if node.op_type in operators]
    found = run_model(model, feed, names)
    return {found[name].dtype.name for name in names}


@pytest.mark.parametrize(("target", "types"), [("sm75", {"float16"}), ("sm89", {"float16", "float32"})])
def test_turing_multiplies_no_fp32_matrices(tiny_model: Model, tiny_feed: Feed, target: str, types: set[str]) -> None:
    """Not of the timestep, and not of what is put back; what is around the products stays FP32 all the same."""
    model, feed, chosen = tiny_model("denoiser"), tiny_feed("denoiser"), recipe("fp16", target)
    prepared = prepare(model, chosen)
    plain = apply(prepared, chosen, {})
    assert types_into(plain, feed, PRODUCTS) == types
    assert worst(run_model(model, feed), run_model(plain, feed)) > 40
    blocks = keep_high(chosen, ["transformer.blocks.*"])
    assert types_into(apply(prepared, blocks, {}), feed, PRODUCTS) == types
    timestep = [node.output[0] for node in plain.graph.node if module_of(node) == "transformer.time_in.1"]
    found = run_model(plain, feed, timestep)
    assert {found[name].dtype for name in timestep} == {np.dtype(np.float32)}


def test_turing_offers_convolutions_alone_to_a_repair(tiny_model: Model, tiny_feed: Feed) -> None:
    def offered(network: str, target: str) -> dict[str, float]:
        chosen = recipe("fp16", target)
        found = sensitivities(prepare(tiny_model(network), chosen), chosen, {}, tiny_feed(network))
        return {item.module: item.decibels for item in found}

    assert offered("denoiser", "sm75") == {}
    everywhere = offered("face_motion_encoder", "sm89")
    del everywhere["face_encoder.out"]  # a matrix product
    assert offered("face_motion_encoder", "sm75") == everywhere != {}


def test_a_function_s_nodes_have_the_module_of_its_call(tiny_model: Model) -> None:
    model = tiny_model("denoiser")
    calls = [module_of(node) for node in model.graph.node if node.op_type in ATTENTION]
    assert calls.count("transformer.blocks.0.attention") == 2
    inlined = inline(model).graph.node
    assert [module_of(node) for node in inlined if node.op_type == "Attention"] == calls
    own = {node.output[0] for node in model.graph.node if node.op_type not in ATTENTION}
    assert {module_of(node) for node in inlined if node.output[0] not in own} == set(calls)


def test_attention_that_is_put_back_is_written_out_and_no_other(tiny_model: Model, tiny_feed: Feed) -> None:
    feed, half = tiny_feed("denoiser"), recipe("fp16")
    prepared = prepare(tiny_model("denoiser"), half)
    assert expand_wide_attention(prepared, half, {"fp16"}) is prepared
    chosen = keep_high(half, ["transformer.blocks.0.attention"])
    written = expand_wide_attention(prepared, chosen, {"fp16"})
    softmax = [module_of(node) for node in written.graph.node if node.op_type == "Softmax"]
    assert softmax == ["transformer.blocks.0.attention"] * 2
    low = apply(written, chosen, {})
    assert types_into(low, feed, ["Softmax"]) == {"float32"}
    assert types_into(low, feed, ["Attention"]) == {"float16"}
    assert worst(run_model(apply(prepared, chosen, {}), feed), run_model(low, feed)) > 55


@pytest.mark.parametrize(("name", "types"), [("fp32", {"fp16", "bf16"}), ("bf16", {"fp16"})])
def test_attention_of_a_wider_type_is_written_out_everywhere(tiny_model: Model, name: str, types: set[str]) -> None:
    prepared = prepare(tiny_model("denoiser"), recipe(name))
    operators = Counter(node.op_type for node in expand_wide_attention(prepared, recipe(name), types).graph.node)
    assert operators["Softmax"] == sum(node.op_type in ATTENTION for node in prepared.graph.node) > 0
    assert not ATTENTION & set(operators)
    assert expand_wide_attention(prepared, recipe(name), {*types, name}) is prepared
