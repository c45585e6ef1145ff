"""How much a precision costs: signal-to-noise of a network's outputs and layers, and which modules cost most."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from dreamactor.export.attention import expand_attention
from dreamactor.export.dynamic import dynamic_layers, quantize_dynamic
from dreamactor.export.onnxgraph import ATTENTION, HEAVY, module_of
from dreamactor.export.precision import high_nodes, lower, simulated
from dreamactor.export.quantize import Layer, layers, quantize
from dreamactor.export.recipe import Recipe
from dreamactor.export.weights import load, map_weights, overflows, save, serialize
from dreamactor.fidelity import signal_to_noise

Arrays = dict[str, np.ndarray]


def worst(reference: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float:
    """The lowest signal-to-noise over all outputs, in dB."""
    return min(signal_to_noise(reference[name], found[name]) for name in reference)


def run_model(model: ModelProto | Path, feed: Mapping[str, np.ndarray], extra: Iterable[str] = ()) -> Arrays:
    """Outputs of an ONNX in ONNX Runtime on the CPU, and the tensors named in `extra`; BF16 is simulated."""
    import onnxruntime

    model = load(model) if isinstance(model, Path) else model
    if any(tensor.data_type == TensorProto.BFLOAT16 for tensor in model.graph.initializer):
        model = simulated(model)
    if extra:
        model = _with_outputs(model, extra)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    with tempfile.TemporaryDirectory() as folder:
        if overflows(model):  # protobuf has no room for it
            save(model, Path(folder) / "model.onnx")
            model = load(Path(folder) / "model.onnx")
        content, beside = serialize(model)
        if beside:
            map_weights(options, beside)
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feed)), strict=True))


def layer_quality(
    prepared: ModelProto, low: ModelProto, nodes: Sequence[str], feed: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Signal-to-noise in dB at the first output of each of these nodes, with everything before it lowered too."""
    outputs = {node.name: node.output[0] for node in prepared.graph.node}
    wanted = [outputs[node] for node in nodes]
    reference, found = run_model(prepared, feed, wanted), run_model(low, feed, wanted)
    return {node: signal_to_noise(reference[name], found[name]) for node, name in zip(nodes, wanted, strict=True)}


@dataclass(frozen=True)
class Sensitivity:
    """`decibels` of the network's worst output when only `module` is in low precision; low is bad."""

    module: str
    decibels: float


def apply(prepared: ModelProto, recipe: Recipe, ranges: Mapping[str, float]) -> ModelProto:
    """`prepared` in the recipe's precision, whichever kind of recipe it is."""
    if recipe.dynamic:
        return quantize_dynamic(prepared, recipe)
    if recipe.quantized:
        return quantize(prepared, recipe, ranges)
    if recipe.high == "fp32":
        return prepared
    return lower(prepared, recipe.high, recipe.keep_fp32, recipe.fp32_products)


def chosen_layers(prepared: ModelProto, recipe: Recipe, ranges: Mapping[str, float]) -> tuple[Layer, ...]:
    """What `apply` quantises."""
    return dynamic_layers(prepared, recipe) if recipe.dynamic else layers(prepared, recipe, ranges)


def sensitivities(
    prepared: ModelProto,
    recipe: Recipe,
    ranges: Mapping[str, float],
    feed: Mapping[str, np.ndarray],
    on_module: Callable[[int, int], None] = lambda done, total: None,
) -> list[Sensitivity]:
    """Every module that the recipe lowers and `keep_high` puts back, the most harmful first: measured with all the
    others left in FP32."""
    reference = run_model(prepared, feed)
    modules = _modules(prepared, recipe, ranges)
    fixed = _fixed(prepared, recipe)
    chosen = [module for module in modules if module not in fixed]
    found = []
    for index, module in enumerate(chosen):
        alone = apply(prepared, _only(recipe, module, modules), ranges)
        found.append(Sensitivity(module, worst(reference, run_model(alone, feed))))
        on_module(index + 1, len(chosen))
    return sorted(found, key=lambda item: item.decibels)


def keep_high(recipe: Recipe, modules: Iterable[str]) -> Recipe:
    """The recipe with these modules in high precision: not quantised, or FP32 where nothing is quantised anyway."""
    if recipe.quantized:
        return recipe.without(*modules)
    return replace(recipe, keep_fp32=(*recipe.keep_fp32, *modules))


def lowered_nodes(prepared: ModelProto, recipe: Recipe) -> dict[str, str]:
    """The matrix products, convolutions and attentions that a recipe without 8 bits lowers, and their modules."""
    if recipe.high == "fp32":
        return {}
    high = high_nodes(prepared, recipe.keep_fp32, recipe.fp32_products)
    heavy = (node for node in prepared.graph.node if node.op_type in HEAVY and node.output[0] not in high)
    return {node.name: module_of(node) for node in heavy if module_of(node)}


def expand_wide_attention(prepared: ModelProto, recipe: Recipe, types: Collection[str]) -> ModelProto:
    """`prepared` with every attention written out that the recipe leaves in another type than `types` ("fp16" ...)."""
    if "fp32" in types:
        return prepared
    lowered = lowered_nodes(prepared, recipe) if recipe.high in types else {}
    attention = (node for node in prepared.graph.node if node.op_type in ATTENTION)
    wide = {module_of(node) for node in attention if node.name not in lowered}
    return expand_attention(prepared, lambda node: module_of(node) in wide) if wide else prepared


def _fixed(prepared: ModelProto, recipe: Recipe) -> set[str]:
    """Modules that stay in low precision whatever is kept high: matrix products where there are none in FP32."""
    if recipe.quantized:
        return set()
    return set(lowered_nodes(prepared, keep_high(recipe, ["*"])).values())


def _modules(prepared: ModelProto, recipe: Recipe, ranges: Mapping[str, float]) -> list[str]:
    """Modules that the recipe lowers, in the order of the graph."""
    if recipe.quantized:
        return list(dict.fromkeys(layer.module for layer in chosen_layers(prepared, recipe, ranges)))
    return list(dict.fromkeys(lowered_nodes(prepared, recipe).values()))


def _only(recipe: Recipe, module: str, modules: Iterable[str]) -> Recipe:
    others = tuple(name for name in modules if name != module)
    kept = keep_high(recipe, others)
    return replace(kept, high="fp32") if recipe.quantized else replace(kept, fp32_products=True)


def _with_outputs(model: ModelProto, names: Iterable[str]) -> ModelProto:
    result = ModelProto()
    result.CopyFrom(model)
    present = {output.name for output in result.graph.output}
    wanted = [name for name in dict.fromkeys(names) if name not in present]
    result.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted)
    return result
