"""An ONNX graph in memory, with what its rewriting needs: new nodes, constants, and finding what made a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]


@dataclass
class Graph:
    """A graph and the helpers to rewrite it; `made` remembers what was made once for all blocks."""

    graph: ir.Graph
    made: dict[tuple[str, ...], ir.Value] = field(default_factory=dict)

    def add(
        self, before: ir.Node, operator: str, *inputs: ir.Value, name: str = "", domain: str = "", **attributes: Any
    ) -> ir.Value:
        """A new node before another one, named after it so that a profile knows where it belongs; its output."""
        node = ir.node(operator, inputs, attributes or None, domain=domain)
        node.name = f"{before.name}/{name or operator}"
        node.metadata_props.update(before.metadata_props)
        node.outputs[0].name = f"{before.outputs[0].name}/{name or operator}"
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def constant(self, name: str, values: Array) -> ir.Value:
        """An initializer, made once for a name."""
        if name not in self.graph.initializers:
            tensor = ir.Tensor(np.ascontiguousarray(values), name=name)
            value = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype))
            value.const_value = tensor
            self.graph.initializers[name] = value
        return self.graph.initializers[name]

    def ints(self, *values: int) -> ir.Value:
        return self.constant(f"ints/{'_'.join(map(str, values))}", np.array(values, np.int64))

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        ir.convenience.replace_all_uses_with(old, new)

    def sweep(self) -> None:
        """Drops nodes whose outputs nobody reads, and unread initializers."""
        for node in reversed(list(self.graph)):
            if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                self.graph.remove(node, safe=True)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses():
                del self.graph.initializers[name]


def producer(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """The node that makes `value`, if it is one of `operators`."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in operators else None


def through(value: ir.Value | None, operator: str) -> ir.Value | None:
    """The input of the `operator` that makes `value`."""
    node = producer(value, operator)
    return node.inputs[0] if node is not None else None


def biased_product(value: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """(x, weight, bias) of x W + b with constant W and b."""
    add = producer(value, "Add")
    for product, bias in (add.inputs, reversed(add.inputs)) if add is not None else ():
        node = producer(product, "MatMul")
        if node is None or bias is None or bias.const_value is None or node.inputs[1] is None:
            continue
        if node.inputs[1].const_value is not None and node.inputs[0] is not None:
            return node.inputs[0], node.inputs[1], bias
    return None


def static_size(value: ir.Value | None, axis: int) -> int | None:
    """A dimension that is known without running."""
    if value is not None and value.shape is not None and isinstance(value.shape[axis], int):
        return int(value.shape[axis])  # type: ignore[arg-type]
    return None


def constant_size(value: ir.Value | None) -> int | None:
    """The one number of a constant [1]."""
    numbers = value.const_value.numpy() if value is not None and value.const_value is not None else None
    return int(numbers[0]) if numbers is not None and numbers.shape == (1,) else None


def has(node: ir.Node, **wanted: tuple[int, ...]) -> bool:
    """Whether the node says these numbers; what it leaves to a default it does not say."""
    given = node.attributes
    return all(name in given and tuple(given[name].as_ints()) == numbers for name, numbers in wanted.items())
