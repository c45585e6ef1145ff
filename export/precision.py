"""FP32 ONNX to FP16 or BF16: every float tensor gets a type, and Casts stand where two types meet.

Inputs and outputs keep their types. What stays FP32: the timestep's sines, norms written out as reductions, and the
arithmetic after the last matrix multiplication (guidance, the solver's update, pixels).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatch

import ml_dtypes
import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from dreamactor.export.onnxgraph import (
    HEAVY,
    PRODUCTS,
    constants,
    consumers,
    module_of,
    producers,
    reachable,
    replace_nodes,
)
from dreamactor.export.weights import array

FLOAT = int(TensorProto.FLOAT)
LOW: dict[str, int] = {"fp16": int(TensorProto.FLOAT16), "bf16": int(TensorProto.BFLOAT16)}
_NUMPY = {LOW["fp16"]: np.dtype(np.float16), LOW["bf16"]: np.dtype(ml_dtypes.bfloat16)}
_LIMIT = {LOW["fp16"]: 65504.0, LOW["bf16"]: 3.38e38}
_REDUCTIONS = {"ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Pow"}
_AFTER_NORM = {"Clip", "Max", "Add", "Sqrt", "Expand", "Reciprocal"}
_BOOLEAN = {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Not", "IsNaN"}
_ALWAYS_FLOAT = {"Resize": (1, 2)}  # inputs whose type the operator fixes


def lower(model: ModelProto, dtype: str, keep_modules: Collection[str] = (), fp32_products: bool = True) -> ModelProto:
    """A copy of `model` in `dtype` ("fp16", "bf16").

    `keep_modules` are patterns of modules that stay FP32; without `fp32_products` their matrix products and attention
    do not, and stand between Casts.
    """
    result = ModelProto()
    result.CopyFrom(model)
    lower_in_place(result, dtype, keep_modules, fp32_products)
    return result


def lower_in_place(
    model: ModelProto, dtype: str, keep_modules: Collection[str] = (), fp32_products: bool = True
) -> None:
    """`lower` without the copy: what is in 8 bits already is not in memory twice."""
    _Lowering(model, LOW[dtype], high_nodes(model, keep_modules, fp32_products)).run()


def simulated(model: ModelProto) -> ModelProto:
    """`lower`'s BF16 model as FP32 that rounds to BF16 after every operation: ONNX Runtime's CPU has no BF16."""
    result = ModelProto()
    result.CopyFrom(model)
    graph, low = result.graph, LOW["bf16"]
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for tensor in graph.initializer:
        if tensor.data_type == low:  # stays where it is, as it is: large weights are not copied
            nodes.append(helper.make_node("Cast", [f"{tensor.name}.stored"], [tensor.name], to=FLOAT))
            tensor.name = f"{tensor.name}.stored"
    for node in graph.node:
        for name in node.output:
            types[name] = _output_type(node, types)
        for item in node.attribute:
            if item.name == "to" and item.i == low:
                item.i = FLOAT
            elif item.type == AttributeProto.TENSOR and item.t.data_type == low:
                item.t.CopyFrom(numpy_helper.from_array(array(item.t).astype(np.float32), item.t.name))
        nodes.append(node)
        for index, name in enumerate(node.output):
            if types[name] == low:
                node.output[index] = f"{name}.exact"
                nodes.append(helper.make_node("Cast", [f"{name}.exact"], [f"{name}.rounded"], to=low))
                nodes.append(helper.make_node("Cast", [f"{name}.rounded"], [name], to=FLOAT))
    replace_nodes(result, nodes)
    return result


def high_nodes(model: ModelProto, keep_modules: Collection[str] = (), fp32_products: bool = True) -> set[str]:
    """The nodes that `lower` leaves in FP32, by their first output's name (ids of protobuf objects do not last)."""
    made, used = producers(model), consumers(model)

    def before(node: NodeProto) -> Iterable[NodeProto]:
        return (made[name] for name in node.input if name in made)

    def after(node: NodeProto) -> Iterable[NodeProto]:
        return (user for name in node.output for user in used.get(name, ()))

    nodes = list(model.graph.node)
    angles = reachable((node for node in nodes if node.op_type in ("Sin", "Cos")), before)
    heavy = [node for node in nodes if node.op_type in HEAVY]
    leads_to_heavy, behind_heavy = reachable(heavy, before), reachable(heavy, after)
    tail = [node for key, node in behind_heavy.items() if key not in leads_to_heavy]
    high = {node.output[0] for node in (*angles.values(), *tail)}
    for node in nodes:
        if node.op_type in _REDUCTIONS:
            high |= _norm(node, used)
        if any(fnmatch(module_of(node), pattern) for pattern in keep_modules):
            high.add(node.output[0])
    return high if fp32_products else high - {node.output[0] for node in nodes if node.op_type in PRODUCTS}


def _norm(start: NodeProto, used: dict[str, list[NodeProto]]) -> set[str]:
    """The reduction, what shapes its result, and the division that ends the norm."""
    found, waiting = set(), [start]
    while waiting:
        node = waiting.pop()
        found.add(node.output[0])
        for user in (user for name in node.output for user in used.get(name, ())):
            if user.op_type in ("Div", "Mul"):
                found.add(user.output[0])
            elif user.op_type in _AFTER_NORM:
                waiting.append(user)
    return found


class _Lowering:
    """One pass over the nodes in order, knowing the type of every tensor made so far."""

    def __init__(self, model: ModelProto, low: int, high: set[str]) -> None:
        self.graph, self.low, self.high = model.graph, low, high
        self.initializers = constants(model)
        self.types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        self.types |= {name: tensor.data_type for name, tensor in self.initializers.items()}
        self.outputs = {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
        self.nodes: list[NodeProto] = []
        self.casts: dict[tuple[str, int], str] = {}
        self.converted: dict[str, TensorProto] = {}

    def run(self) -> None:
        for node in self.graph.node:
            want = FLOAT if node.output[0] in self.high else self.low
            self._retype_constant(node, want)
            for index, name in enumerate(node.input):
                fixed = index in _ALWAYS_FLOAT.get(node.op_type, ())
                if name and node.op_type != "Cast":
                    node.input[index] = self._as(name, FLOAT if fixed else want)
            self.nodes.append(node)
            for name in node.output:
                self.types[name] = _output_type(node, self.types)
        self._keep_output_types()
        self._replace()

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) in (FLOAT, self.low)

    def _as(self, name: str, want: int) -> str:
        """`name` in type `want`: a converted initializer or a Cast, made once."""
        if not self._is_float(name) or self.types[name] == want:
            return name
        if (name, want) not in self.casts:
            self.casts[name, want] = cast = f"{name}.{TensorProto.DataType.Name(want).lower()}"
            self.types[cast] = want
            if name in self.initializers:
                values = array(self.initializers[name])
                kept = np.clip(values, -_LIMIT[self.low], _LIMIT[self.low]).astype(_NUMPY[self.low])
                self.converted[cast] = numpy_helper.from_array(kept, cast)
            else:
                self.nodes.append(helper.make_node("Cast", [name], [cast], name=f"cast.{cast}", to=want))
        return self.casts[name, want]

    def _retype_constant(self, node: NodeProto, want: int) -> None:
        """Casts to float and float constants take the type of their node."""
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = want
            is_tensor = attribute.type == AttributeProto.TENSOR and attribute.t.data_type == FLOAT
            if node.op_type in ("Constant", "ConstantOfShape") and is_tensor and want == self.low:
                values = array(attribute.t).astype(_NUMPY[self.low])
                attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))

    def _keep_output_types(self) -> None:
        renamed = {}
        for name, wanted in self.outputs.items():
            if self._is_float(name) and self.types[name] != wanted:
                renamed[name] = f"{name}.low"
                self.nodes.append(helper.make_node("Cast", [f"{name}.low"], [name], name=f"cast.{name}", to=wanted))
        for node in self.nodes[: len(self.nodes) - len(renamed)]:
            for index, name in enumerate(node.input):
                node.input[index] = renamed.get(name, name)
            for index, name in enumerate(node.output):
                node.output[index] = renamed.get(name, name)

    def _replace(self) -> None:
        nodes = list(self.nodes)
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        del self.graph.value_info[:]
        used = {name for node in nodes for name in node.input} | set(self.outputs)
        for index in reversed(range(len(self.graph.initializer))):  # one by one: large ones are not copied
            if self.graph.initializer[index].name not in used:
                del self.graph.initializer[index]
        while self.converted:
            self.graph.initializer.append(self.converted.pop(next(iter(self.converted))))


def _output_type(node: NodeProto, types: dict[str, int]) -> int:
    attributes = {item.name: item for item in node.attribute}
    if node.op_type == "Cast":
        return int(attributes["to"].i)
    if node.op_type in ("Shape", "Size", "NonZero", "ArgMax", "ArgMin"):
        return TensorProto.INT64
    if node.op_type in _BOOLEAN:
        return TensorProto.BOOL
    if node.op_type in ("Constant", "ConstantOfShape"):
        if "value" in attributes:
            return int(attributes["value"].t.data_type)
        is_float = any(name.startswith("value_float") for name in attributes) or node.op_type == "ConstantOfShape"
        return FLOAT if is_float else TensorProto.INT64
    if node.op_type == "QuantizeLinear":
        return types.get(node.input[2], TensorProto.UINT8) if len(node.input) > 2 else TensorProto.UINT8
    index = {"Where": 1, "DequantizeLinear": 1}.get(node.op_type, 0)
    return types.get(node.input[index], TensorProto.UNDEFINED) if node.input else TensorProto.UNDEFINED
