"""Explicit Q/DQ: weights in 8 bits, the right layers, calibrated ranges, and what each module costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dreamactor.engines.store import Store
from dreamactor.errors import EngineError, InputError
from dreamactor.export import quantize as quantization
from dreamactor.export import weights
from dreamactor.export.attention import inline
from dreamactor.export.calibrate import Samples, activation_ranges, load_samples, save_samples
from dreamactor.export.dynamic import quantize_dynamic
from dreamactor.export.onnxgraph import constants, producers
from dreamactor.export.quality import apply, keep_high, layer_quality, lowered_nodes, run_model, sensitivities, worst
from dreamactor.export.quantize import FORMATS, layers, prepare, quantize
from dreamactor.export.recipe import Recipe
from dreamactor.export.recipes import recipe
from dreamactor.export.weights import array
from tests.disk import full_disk

Model = Callable[[str], onnx.ModelProto]
Feed = Callable[..., dict[str, np.ndarray]]
Sampled = Callable[[str], Samples]
TYPES = {"fp8": TensorProto.FLOAT8E4M3FN, "int8": TensorProto.INT8}


def observed_ranges(prepared: onnx.ModelProto, chosen: Recipe, feed: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest magnitudes seen, measured without modelopt."""
    names = sorted({name for layer in layers(prepared, chosen) for name in layer.activations})
    found = run_model(prepared, feed, names)
    return {name: float(np.abs(found[name]).max()) for name in names}


@pytest.mark.parametrize("name", ["fp8", "int8"])
@pytest.mark.parametrize(("network", "least"), [("denoiser", 18.0), ("vae_decoder", 18.0), ("pose_encoder", 15.0)])
def test_quantised_network_is_close_and_stored_in_8_bits(
    tiny_model: Model, tiny_feed: Feed, name: str, network: str, least: float
) -> None:
    chosen, feed = recipe(name), tiny_feed(network)
    prepared = prepare(tiny_model(network), chosen)
    ranges = observed_ranges(prepared, chosen, feed)
    low = quantize(prepared, chosen, ranges)
    onnx.checker.check_model(low)
    assert worst(run_model(prepared, feed), run_model(low, feed)) > least
    stored = constants(low)
    for layer in layers(prepared, chosen, ranges):
        if layer.weight is not None:
            assert layer.weight not in stored
            assert stored[f"{layer.weight}.q8"].data_type == TYPES[name]
            channels = stored[f"{layer.weight}.q8"].dims[layer.axis]
            assert list(stored[f"{layer.weight}.scale.float16"].dims) == [channels]


def test_fp8_attention_has_qdq_on_q_k_v_and_softmax_at_1_448(tiny_model: Model, tiny_feed: Feed) -> None:
    chosen = recipe("fp8")
    prepared = prepare(tiny_model("denoiser"), chosen)
    low = quantize(prepared, chosen, observed_ranges(prepared, chosen, tiny_feed("denoiser")))
    made, stored = producers(low), constants(low)
    bmm = [node for node in low.graph.node if node.name.endswith((".scores", ".context"))]
    assert len(bmm) == 6  # two streams in the first block, one in the last, whose reference stream ends there
    for node in bmm:
        for name in node.input:
            dequantize = made[name]
            assert dequantize.op_type == "DequantizeLinear"
            scale = stored[dequantize.input[1]]
            assert scale.data_type == TensorProto.FLOAT16
            if ".softmax" in name:
                assert array(scale).item() == pytest.approx(1 / 448, rel=1e-3)


def test_edges_stay_high(tiny_model: Model) -> None:
    for name in ("fp8", "int8"):
        modules = {layer.module for layer in layers(prepare(tiny_model("denoiser"), recipe(name)), recipe(name))}
        assert "transformer.blocks.0.attention.qkv" in modules
        assert "transformer.blocks.1.ffn.2" in modules
        assert not modules & {"transformer.patchify", "transformer.time_out", "transformer.final"}


@pytest.mark.parametrize(("name", "network", "attention"), [("int8", "vae_decoder", False), ("fp8", "denoiser", True)])
def test_a_layer_without_one_of_its_ranges_is_left_as_it_is(
    tiny_model: Model, tiny_feed: Feed, name: str, network: str, attention: bool
) -> None:
    chosen, feed = recipe(name), tiny_feed(network)
    prepared = prepare(tiny_model(network), chosen)
    ranges = observed_ranges(prepared, chosen, feed)
    missing = next(layer for layer in layers(prepared, chosen) if (layer.weight is None) == attention)
    ranges.pop(missing.activations[0])
    left = {layer.node for layer in layers(prepared, chosen, ranges)}
    assert left
    assert missing.node not in left
    onnx.checker.check_model(quantize(prepared, chosen, ranges))


def test_scales_are_what_fp16_holds() -> None:
    scale = quantization._scale(np.array([3.14159, 1e-9, 0.0]), FORMATS["int8"])
    assert (scale == scale.astype(np.float16)).all()
    assert (scale >= 2.0**-14).all()


def test_cpu_int8_is_smaller_and_close(tiny_model: Model, tiny_feed: Feed) -> None:
    chosen, feed = recipe("int8", "cpu"), tiny_feed("denoiser")
    model = tiny_model("denoiser")
    low = quantize_dynamic(prepare(model, chosen), chosen)
    assert low.ByteSize() < 0.8 * model.ByteSize()
    assert any(node.op_type == "MatMulInteger" for node in low.graph.node)
    assert worst(run_model(model, feed), run_model(low, feed)) > 30


@pytest.mark.parametrize(("unsigned", "expected"), [(True, "uint8"), (False, "int8")])
def test_weights_are_unsigned_or_signed_as_the_recipe_says(tiny_model: Model, unsigned: bool, expected: str) -> None:
    chosen = replace(recipe("int8", "cpu"), unsigned=unsigned)
    low = quantize_dynamic(prepare(tiny_model("denoiser"), chosen), chosen)
    stored = {i.name: numpy_helper.to_array(i) for i in low.graph.initializer}
    kinds = {stored[node.input[1]].dtype.name for node in low.graph.node if node.op_type == "MatMulInteger"}
    assert kinds == {expected}
    assert recipe("int8", "cpu").unsigned  # right everywhere, unless a build knows better


@pytest.mark.parametrize("unsigned", [True, False])
def test_a_column_of_small_weights_is_as_exact_as_one_of_large(unsigned: bool) -> None:
    draw = np.random.default_rng(0)
    weight = (draw.standard_normal((32, 32)) * np.logspace(-4, 0, 32)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 32]) for name in "xy"]
    graph = helper.make_graph([node], "g", edges[:1], edges[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    x = draw.standard_normal((64, 32)).astype(np.float32)
    low = quantize_dynamic(model, replace(recipe("int8", "cpu"), unsigned=unsigned))
    expected, found = x @ weight, run_model(low, {"x": x})["y"]
    error = np.linalg.norm(found - expected, axis=0) / np.linalg.norm(expected, axis=0)
    assert error.max() < 0.03


def test_products_that_follow_one_another_are_each_quantised() -> None:
    """Nothing stands between them, so one's output is the other's 8-bit input."""
    draw = np.random.default_rng(0)
    matrices = [numpy_helper.from_array(draw.standard_normal((32, 32)).astype(np.float32), name) for name in "ab"]
    nodes = [helper.make_node("MatMul", [x, w], [y], name=f"to_{y}") for x, w, y in (("x", "a", "y"), ("y", "b", "z"))]
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 32]) for name in "xz"]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], matrices)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    low = quantize_dynamic(model, recipe("int8", "cpu"))
    assert [node.op_type for node in low.graph.node].count("MatMulInteger") == 2
    feed = {"x": draw.standard_normal((4, 32)).astype(np.float32)}
    assert worst(run_model(model, feed), run_model(low, feed)) > 30


def test_putting_the_most_harmful_module_back_gains_more_than_the_least(tiny_model: Model, tiny_feed: Feed) -> None:
    chosen, feed = recipe("int8"), tiny_feed("pose_encoder")
    prepared = prepare(tiny_model("pose_encoder"), chosen)
    ranges = observed_ranges(prepared, chosen, feed)
    order = sensitivities(prepared, chosen, ranges, feed)
    reference = run_model(prepared, feed)

    def without(module: str) -> float:
        return worst(reference, run_model(apply(prepared, keep_high(chosen, [module]), ranges), feed))

    assert without(order[0].module) > without(order[-1].module)


def test_layer_quality_covers_every_quantised_layer(tiny_model: Model, tiny_feed: Feed) -> None:
    chosen, feed = recipe("fp8"), tiny_feed("denoiser")
    prepared = prepare(tiny_model("denoiser"), chosen)
    ranges = observed_ranges(prepared, chosen, feed)
    found = layers(prepared, chosen, ranges)
    nodes = [layer.node for layer in found]
    measured = layer_quality(prepared, quantize(prepared, chosen, ranges), nodes, feed)
    assert list(measured) == nodes
    assert all(5 < value < 60 for value in measured.values())


@pytest.mark.parametrize(("dtype", "least"), [("fp16", 40.0), ("bf16", 18.0)])
def test_layer_quality_covers_every_layer_of_a_half_precision_network(
    tiny_model: Model, tiny_feed: Feed, dtype: str, least: float
) -> None:
    chosen, feed = recipe(dtype), tiny_feed("denoiser")
    prepared = prepare(tiny_model("denoiser"), chosen)
    modules = lowered_nodes(prepared, chosen)
    measured = layer_quality(prepared, apply(prepared, chosen, {}), list(modules), feed)
    assert {"transformer.blocks.0.attention.qkv", "transformer.blocks.1.ffn.2"} <= set(modules.values())
    assert set(measured) == set(modules)
    assert all(least < value < 120 for value in measured.values())
    assert lowered_nodes(prepared, recipe("fp32")) == {}


def test_a_full_disk_under_samples_is_said(tmp_path: Path, tiny_feed: Feed) -> None:
    def make(folder: Path) -> dict[str, object]:
        with full_disk(4096):
            save_samples(folder, "denoiser", [tiny_feed("denoiser")])
        return {}

    with pytest.raises(EngineError, match="cannot be written: File too large"):
        Store(tmp_path).get("samples", {}, make)


def test_weights_too_large_for_one_file_run_the_same(
    tiny_model: Model, tiny_feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, feed = tiny_model("vae_decoder"), tiny_feed("vae_decoder")
    expected = run_model(model, feed)
    monkeypatch.setattr(weights, "LARGE", 1)
    for _ in range(2):  # the model is as it was
        np.testing.assert_array_equal(run_model(model, feed)["video"], expected["video"])


def test_samples_keep_their_hash_and_order(tiny_samples: Sampled, tiny_feed: Feed) -> None:
    samples = tiny_samples("denoiser")
    again = load_samples(samples.paths[0].parent, "denoiser")
    assert again.sha256 == samples.sha256
    for seed, feed in enumerate(again.feeds()):
        np.testing.assert_array_equal(feed["latent"], tiny_feed("denoiser", seed)["latent"])
    before = samples.sha256
    content = bytearray(samples.paths[1].read_bytes())
    content[-1] ^= 1
    samples.paths[1].write_bytes(content)
    assert samples.sha256 != before


def test_unknown_precision_lists_the_choices() -> None:
    with pytest.raises(InputError, match="fp32, fp16, bf16, fp8, int8"):
        recipe("int4")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["fp8", "int8"])
def test_modelopt_ranges_are_the_observed_ones(
    tiny_model: Model, tiny_feed: Feed, tiny_samples: Sampled, form: str
) -> None:
    """With one sample, "max" calibration must find exactly the largest magnitude (FP8's scales are corrected for)."""
    chosen = recipe(form)
    prepared = prepare(tiny_model("denoiser"), chosen)
    samples = tiny_samples("denoiser")
    one = Samples("denoiser", samples.paths[:1])
    nodes = [layer.node for layer in layers(prepared, chosen)]
    ranges, _ = activation_ranges(inline(prepared), nodes, one, form, "max")
    observed = observed_ranges(prepared, chosen, tiny_feed("denoiser", 0))
    assert set(ranges) == set(observed)
    for name, largest in observed.items():
        if name.endswith(".softmax"):  # modelopt knows its range to be 0 to 1
            continue
        assert ranges[name] == pytest.approx(largest, rel=0.02), name


def test_ranges_of_a_large_network_are_the_observed_ones_too(
    tiny_model: Model, tiny_samples: Sampled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those whose weights lie on disk do without nvidia-modelopt."""
    chosen = recipe("fp8")
    prepared = prepare(tiny_model("denoiser"), chosen)
    monkeypatch.setattr("dreamactor.export.calibrate.is_large", lambda model: True)
    nodes = [layer.node for layer in layers(prepared, chosen)]
    samples = tiny_samples("denoiser")
    ranges, method = activation_ranges(inline(prepared), nodes, samples, "fp8", "entropy")
    assert method == "max"
    observed = [observed_ranges(prepared, chosen, feed) for feed in samples.feeds()]
    assert set(ranges) == set(observed[0])
    for name, largest in ranges.items():
        assert largest == pytest.approx(max(each[name] for each in observed), rel=1e-5), name
