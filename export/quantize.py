"""FP32 ONNX to 8 bits with explicit Q/DQ: weights stored in 8 bits per channel, activations with one scale a tensor.

Strongly typed runtimes take Q/DQ at its word, so what is written here is what runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dreamactor.export.attention import CONTEXT, SCORES, SOFTMAX, expand_attention, has_mask
from dreamactor.export.onnxgraph import constants, module_of, name_nodes, prune, replace_nodes
from dreamactor.export.precision import lower_in_place
from dreamactor.export.recipe import Recipe
from dreamactor.export.weights import array

SMALLEST_SCALE = 2.0**-14  # the smallest normal FP16 number: scales are FP16 where the rest is
MIN_CHANNELS = 16  # below this an 8-bit layer is slower than a half-precision one


@dataclass(frozen=True)
class Format:
    """An 8-bit number: largest magnitude, ONNX type, numpy type."""

    largest: float
    onnx_type: int
    dtype: np.dtype[np.generic]


_E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
FORMATS = {
    "int8": Format(127.0, TensorProto.INT8, np.dtype(np.int8)),
    "fp8": Format(float(ml_dtypes.finfo(_E4M3).max), TensorProto.FLOAT8E4M3FN, _E4M3),
}


@dataclass(frozen=True)
class Layer:
    """A node to quantise. `weight` is its initializer and `axis` the output channels', or None for attention."""

    node: str
    module: str
    activations: tuple[str, ...]
    weight: str | None = None
    axis: int = 0
    operator: str = "MatMul"


def prepare(model: ModelProto, recipe: Recipe) -> ModelProto:
    """A copy in the form that `layers` and `quantize` work on: attention written out where it is quantised."""
    if recipe.attention:
        copy = expand_attention(model, lambda node: not has_mask(node))
    else:
        copy = ModelProto()
        copy.CopyFrom(model)
    name_nodes(copy)
    return copy


def layers(prepared: ModelProto, recipe: Recipe, ranges: Mapping[str, float] | None = None) -> tuple[Layer, ...]:
    """What the recipe quantises, in the order of the graph; with `ranges`, only layers whose inputs all have one."""
    stored = constants(prepared)
    found = (_layer(node, stored, recipe) for node in prepared.graph.node)
    chosen = (layer for layer in found if layer is not None and recipe.may_quantize(layer.module))
    return tuple(layer for layer in chosen if ranges is None or all(_known(name, ranges) for name in layer.activations))


def _known(name: str, ranges: Mapping[str, float]) -> bool:
    return name in ranges or name.endswith(f".{SOFTMAX}")


def quantize(prepared: ModelProto, recipe: Recipe, ranges: Mapping[str, float]) -> ModelProto:
    """A copy of `prepared` with Q/DQ at the layers of the recipe, and everything else in `recipe.high`.

    `ranges` are the activations' largest magnitudes by tensor name; a layer without one is left as it is.
    """
    model = ModelProto()
    model.CopyFrom(prepared)
    writer = _Writer(model, FORMATS[recipe.quantized], ranges)
    chosen = {layer.node: layer for layer in layers(prepared, recipe, ranges)}
    for node in prepared.graph.node:
        if node.name in chosen:
            writer.layer(chosen[node.name])
    writer.finish()
    if recipe.high != "fp32":
        lower_in_place(model, recipe.high, recipe.keep_fp32, recipe.fp32_products)
    return model


def _layer(node: NodeProto, stored: Mapping[str, TensorProto], recipe: Recipe) -> Layer | None:
    if node.op_type == "MatMul" and node.name.rpartition(".")[2] in (SCORES, CONTEXT):
        return Layer(node.name, module_of(node), tuple(node.input)) if recipe.attention else None
    if node.op_type not in ("MatMul", "Gemm", "Conv") or node.input[1] not in stored:
        return None
    weight = stored[node.input[1]]
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    axis = 0 if node.op_type == "Conv" or transposed else 1
    if len(weight.dims) < 2 or weight.dims[axis] < MIN_CHANNELS or weight.dims[1 - axis] < MIN_CHANNELS:
        return None
    return Layer(node.name, module_of(node), (node.input[0],), node.input[1], axis, node.op_type)


class _Writer:
    """Puts Q/DQ before nodes of one model; a tensor or weight that several layers share is quantised once."""

    def __init__(self, model: ModelProto, form: Format, ranges: Mapping[str, float]) -> None:
        self.model, self.form, self.ranges = model, form, ranges
        self.stored = constants(model)
        self.nodes = {node.name: node for node in model.graph.node}
        self.before: dict[str, list[NodeProto]] = {}
        self.done: dict[str, str] = {}

    def layer(self, layer: Layer) -> None:
        node = self.nodes[layer.node]
        for index, name in enumerate(node.input):
            if name == layer.weight:
                node.input[index] = self._weight(node.name, name, layer.axis)
            elif name in layer.activations:
                node.input[index] = self._activation(node.name, name)

    def finish(self) -> None:
        ordered = []
        for node in self.model.graph.node:
            ordered += [*self.before.get(node.name, ()), node]
        replace_nodes(self.model, ordered)
        prune(self.model)

    def _activation(self, node: str, name: str) -> str:
        if name not in self.done:
            largest = 1.0 if name.endswith(f".{SOFTMAX}") else self.ranges[name]
            scale = self._constant(f"{name}.scale", _scale(np.array(largest), self.form))
            zero = self._zero(f"{name}.zero", ())
            inputs = [name, scale, zero]
            self._pair(
                node, name, helper.make_node("QuantizeLinear", inputs, [f"{name}.q8"], name=f"{name}.Q"), scale, zero
            )
        return self.done[name]

    def _weight(self, node: str, name: str, axis: int) -> str:
        if name not in self.done:
            values = array(self.stored[name]).astype(np.float32)
            others = tuple(index for index in range(values.ndim) if index != axis)
            scale = _scale(np.abs(values).max(others), self.form)
            shape = [-1 if index == axis else 1 for index in range(values.ndim)]
            quotient = np.clip(values / scale.reshape(shape), -self.form.largest, self.form.largest)
            small = np.rint(quotient) if self.form.onnx_type == TensorProto.INT8 else quotient
            self._tensor(f"{name}.q8", small.astype(self.form.dtype))
            scale_name = self._constant(f"{name}.scale", scale)
            self._pair(node, name, None, scale_name, self._zero(f"{name}.zero", scale.shape), axis)
        return self.done[name]

    def _pair(
        self, node: str, name: str, quantize: NodeProto | None, scale: str, zero: str, axis: int | None = None
    ) -> None:
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        dequantize = helper.make_node(
            "DequantizeLinear", [f"{name}.q8", scale, zero], [f"{name}.dq"], name=f"{name}.DQ", **attributes
        )
        self.before.setdefault(node, []).extend([quantize, dequantize] if quantize else [dequantize])
        self.done[name] = f"{name}.dq"

    def _zero(self, name: str, shape: tuple[int, ...]) -> str:
        return self._tensor(name, np.zeros(shape, self.form.dtype))

    def _constant(self, name: str, values: np.ndarray) -> str:
        return self._tensor(name, values.astype(np.float32))

    def _tensor(self, name: str, values: np.ndarray) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name


def _scale(largest: np.ndarray, form: Format) -> np.ndarray:
    """Scales that FP16 can hold exactly, so that weights are divided by what they will be multiplied with."""
    wanted = np.maximum(largest / form.largest, SMALLEST_SCALE)
    rounded: np.ndarray = np.minimum(wanted, 65504.0).astype(np.float16).astype(np.float32)
    return rounded
