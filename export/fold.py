"""Weights as the operators read them: reshapes and transposes of weights are done once, here, and not by each runtime.

TensorRT takes a convolution's weights only as constants, and the quantisation recipes look for them there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]
Fold = Callable[[ir.Node, Sequence[Array]], Array]


def fold_weights(model: ir.Model) -> int:
    """Replaces chains of Reshape, Squeeze and Transpose that start at a weight by the weight they make; the count.

    Values are untouched, so the model computes the same to the last bit.
    """
    folded = 0
    for node in list(model.graph):
        make = _FOLDS.get(node.op_type) if node.domain == "" else None
        inputs = [value for value in node.inputs if value is not None]
        if node.graph is None or make is None or not inputs or any(value.const_value is None for value in inputs):
            continue
        if inputs[0].is_graph_input() or not _is_float(inputs[0]):
            continue
        users = [use.node for use in inputs[0].uses()]
        alike = [user for user in users if _same(user, node)]
        keeps = len(alike) == len(users)  # a weight keeps its name
        name = str(inputs[0].name if keeps else node.outputs[0].name)
        constant = _folded(name, make, node, inputs)
        weight = ir.Value(name=name, shape=constant.shape, type=ir.TensorType(constant.dtype))
        weight.const_value = constant
        for each in alike:
            ir.convenience.replace_all_uses_with(each.outputs[0], weight)
            model.graph.remove(each, safe=True)
        model.graph.initializers.pop(name, None)
        model.graph.initializers[name] = weight
        folded += len(alike)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses():
            del model.graph.initializers[name]
    return folded


def _folded(name: str, make: Fold, node: ir.Node, inputs: Sequence[ir.Value]) -> ir.LazyTensor:
    """The weight as it will be written: its values are made then, one tensor at a time, and not kept."""
    tensors = [value.const_value for value in inputs if value.const_value is not None]

    def values() -> Array:
        return make(node, [tensor.numpy() for tensor in tensors])

    blank = np.empty(tensors[0].shape.numpy(), np.int8)  # of which nothing is touched
    shape = ir.Shape(make(node, [blank, *(tensor.numpy() for tensor in tensors[1:])]).shape)
    return ir.LazyTensor(
        lambda: ir.Tensor(np.ascontiguousarray(values()), name=name), dtype=tensors[0].dtype, shape=shape, name=name
    )


def _same(one: ir.Node, other: ir.Node) -> bool:
    """Whether two nodes make the same of the same weight."""
    if (one.op_type, one.domain, one.inputs[0]) != (other.op_type, other.domain, other.inputs[0]):
        return False
    rest = [[value.const_value for value in node.inputs[1:] if value is not None] for node in (one, other)]
    if any(value is None for values in rest for value in values):
        return False
    sizes = [[value.numpy().tolist() for value in values if value is not None] for values in rest]
    return sizes[0] == sizes[1] and str(one.attributes) == str(other.attributes)


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _transpose(node: ir.Node, tensors: Sequence[Array]) -> Array:
    order = node.attributes.get("perm")
    return tensors[0].transpose(None if order is None else order.as_ints())


def _reshape(node: ir.Node, tensors: Sequence[Array]) -> Array:
    copy_sizes = "allowzero" not in node.attributes or not node.attributes["allowzero"].as_int()
    shape = [tensors[0].shape[axis] if size == 0 and copy_sizes else int(size) for axis, size in enumerate(tensors[1])]
    return tensors[0].reshape(shape)


def _squeeze(node: ir.Node, tensors: Sequence[Array]) -> Array:
    return tensors[0].squeeze(None if len(tensors) < 2 else tuple(int(axis) for axis in tensors[1]))


_FOLDS: dict[str, Fold] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
}
