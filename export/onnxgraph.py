"""Small helpers over an ONNX graph: who makes and uses a tensor, which module a node came from, constants as arrays."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterable

import onnx
from onnx import ModelProto, NodeProto

ATTENTION = {"Attention", "FlashAttention", "FaceAttention"}
PRODUCTS = {"MatMul", "Gemm", *ATTENTION}
HEAVY = {"Conv", *PRODUCTS}


def module_of(node: NodeProto) -> str:
    """Dotted path of the PyTorch module a node was exported from, like "transformer.blocks.0.ffn.2"; "" if unknown."""
    for item in node.metadata_props:
        if item.key == "pkg.torch.onnx.name_scopes":
            scopes = ast.literal_eval(item.value)
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""


def producers(model: ModelProto) -> dict[str, NodeProto]:
    """Tensor name -> the node that makes it."""
    return {name: node for node in model.graph.node for name in node.output if name}


def consumers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """Tensor name -> the nodes that use it."""
    found: dict[str, list[NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            if name:
                found[name].append(node)
    return found


def constants(model: ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers by name, as protos."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def reachable(start: Iterable[NodeProto], step: Callable[[NodeProto], Iterable[NodeProto]]) -> dict[str, NodeProto]:
    """Every node that `step` leads to from `start`, these included, by the name of their first output."""
    seen: dict[str, NodeProto] = {}
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node.output[0] not in seen:
            seen[node.output[0]] = node
            waiting.extend(step(node))
    return seen


def name_nodes(model: ModelProto) -> None:
    """Gives every node a name of its own, in place."""
    used: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in used:
            node.name = f"{node.name or node.op_type}_{index}"
        used.add(node.name)


def replace_nodes(model: ModelProto, nodes: Iterable[NodeProto]) -> None:
    """Puts `nodes`, of the model's own or new, in place of its nodes, in this order."""
    kept = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def prune(model: ModelProto) -> None:
    """Drops nodes and initializers that no output needs, in place."""
    made = producers(model)
    roots = [made[output.name] for output in model.graph.output if output.name in made]
    kept = reachable(roots, lambda node: (made[name] for name in node.input if name in made))
    nodes = [node for node in model.graph.node if node.output[0] in kept]
    used = {name for node in nodes for name in node.input} | {output.name for output in model.graph.output}
    for index in reversed(range(len(model.graph.node))):
        if model.graph.node[index].output[0] not in kept:
            del model.graph.node[index]
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name not in used:
            del model.graph.initializer[index]
