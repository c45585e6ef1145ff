"""The CPU's INT8: weights in 8 bits per channel, activation scales found at run time, integer matrix products.

ONNX Runtime runs Q/DQ as dequantise-then-float; these operators it fuses to one integer product. Convolutions stay
FP32: no INT8 form of them was faster there (measured on AVX512-VNNI and AMX).
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dreamactor.export.onnxgraph import constants, prune, replace_nodes
from dreamactor.export.quantize import FORMATS, Layer, layers
from dreamactor.export.recipe import Recipe
from dreamactor.export.weights import array


def dynamic_layers(prepared: ModelProto, recipe: Recipe) -> tuple[Layer, ...]:
    """What `quantize_dynamic` quantises: the recipe's matrix products with constant weights."""
    return tuple(layer for layer in layers(prepared, recipe) if layer.operator == "MatMul" and layer.weight)


def quantize_dynamic(prepared: ModelProto, recipe: Recipe) -> ModelProto:
    """A copy of `prepared` with integer matrix products at the layers of the recipe."""
    model = ModelProto()
    model.CopyFrom(prepared)
    chosen = {layer.node: layer for layer in dynamic_layers(prepared, recipe)}
    stored, written, nodes = constants(prepared), set[str](), list[NodeProto]()
    for node in prepared.graph.node:
        if node.name not in chosen:
            nodes.append(node)
            continue
        x, weight = node.input
        if weight not in written:
            written.add(weight)
            model.graph.initializer.extend(_weight(stored[weight], recipe.unsigned))
        if x not in written:  # layers that read the same tensor quantise it once
            written.add(x)
            outputs = [f"{x}.q8", f"{x}.scale", f"{x}.zero"]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [x], outputs, name=f"{x}.Q"))
        nodes += _product(node, x, weight)
    del model.graph.value_info[:]  # they know the weights' old types
    replace_nodes(model, nodes)
    prune(model)
    return model


def _weight(tensor: TensorProto, unsigned: bool) -> list[TensorProto]:
    """A weight [K,N] in 8 bits, with a scale and a zero point for each of its N columns."""
    zero, kind = (128, np.uint8) if unsigned else (0, np.int8)
    form, values = FORMATS["int8"], array(tensor)
    scale = np.maximum(np.abs(values).max(0) / form.largest, np.finfo(np.float32).tiny).astype(np.float32)
    small = (np.rint(values / scale) + zero).astype(kind)
    parts = {"q8": small, "scale": scale, "zero": np.full(scale.shape, zero, kind)}
    return [numpy_helper.from_array(part, f"{tensor.name}.{name}") for name, part in parts.items()]


def _product(node: NodeProto, x: str, weight: str) -> list[NodeProto]:
    """y = float(int(x) int(W)) (scale of x) (scale of W), in the order that ONNX Runtime fuses."""
    name, y = node.name, node.output[0]
    product = helper.make_node(
        "MatMulInteger", [f"{x}.q8", f"{weight}.q8", f"{x}.zero", f"{weight}.zero"], [f"{y}.int"], name=name
    )
    cast = helper.make_node("Cast", [f"{y}.int"], [f"{y}.float"], name=f"{name}.cast", to=TensorProto.FLOAT)
    scale = helper.make_node("Mul", [f"{x}.scale", f"{weight}.scale"], [f"{y}.scales"], name=f"{name}.scales")
    last = helper.make_node("Mul", [f"{y}.float", f"{y}.scales"], [y], name=f"{name}.scaled")
    for new in (product, cast, scale, last):
        new.metadata_props.extend(node.metadata_props)
    return [product, cast, scale, last]
