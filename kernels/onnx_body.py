"""Writing the bodies of model-local ONNX functions, node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import FunctionProto, NodeProto, OperatorSetIdProto, helper

DOMAIN = "dreamactor"
OPSET = 23
PLUGIN_VERSION = "1"
PLUGIN_ATTRIBUTES: dict[str, int | float | str] = {
    "plugin_namespace": DOMAIN,
    "plugin_version": PLUGIN_VERSION,
    "aot": 1,
}


class Body:
    """Collects the nodes of a function; `add` returns the name of the new node's output."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []

    def add(
        self, operator: str, *inputs: str, output: str = "", refer: dict[str, str] | None = None, **attributes: Any
    ) -> str:
        output = output or f"t{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [output], **attributes)
        for name, source in (refer or {}).items():
            kind = helper.make_attribute(name, 1.0 if name == "scale" else 1).type
            node.attribute.add(name=name, ref_attr_name=source, type=kind)
        self.nodes.append(node)
        return output

    def ints(self, *values: int) -> str:
        """A one-dimensional int64 constant."""
        return self.add("Constant", value_ints=list(values))

    def window(self) -> str:
        """The function's attribute `window` as a scalar."""
        return self.add("Constant", refer={"value_int": "window"})

    def size(self, tensor: str, axis: int) -> str:
        """[1] size of one axis."""
        return self.add("Shape", tensor, start=axis, end=axis + 1)

    def arange(self, length: str) -> str:
        """0, 1, ... length-1 for a scalar length."""
        zero, one = self.add("Constant", value_int=0), self.add("Constant", value_int=1)
        return self.add("Range", zero, length, one)

    def shape(self, *parts: str | int) -> str:
        """A shape put together from [1] tensors and constants."""
        return self.add("Concat", *(self.ints(part) if isinstance(part, int) else part for part in parts), axis=0)

    def function(
        self, name: str, inputs: Sequence[str], attributes: Sequence[str], outputs: Sequence[str] = ("out",)
    ) -> FunctionProto:
        imports: list[OperatorSetIdProto] = [helper.make_opsetid("", OPSET)]
        names = [*attributes, *PLUGIN_ATTRIBUTES]
        return helper.make_function(DOMAIN, name, list(inputs), list(outputs), self.nodes, imports, names)
