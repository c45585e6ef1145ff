"""Attention nodes as plain matrix multiplications, where Q/DQ must stand between or a builder lacks the operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.inliner
from onnx import ModelProto, NodeProto, helper, numpy_helper

from dreamactor.export.onnxgraph import module_of, name_nodes, replace_nodes

SCORES, CONTEXT, SOFTMAX = "scores", "context", "softmax"


def inline(model: ModelProto) -> ModelProto:
    """`model` with every function body in place of its node, whose module each node of the body then has; attention is
    ONNX's own `Attention`."""
    result = onnx.inliner.inline_local_functions(model) if model.functions else model
    bodies = {(function.domain, function.name) for function in model.functions}
    calls = {node.output[0]: node for node in model.graph.node if (node.domain, node.op_type) in bodies}
    own = {node.output[0] for node in model.graph.node} - set(calls)
    body: list[NodeProto] = []
    for node in result.graph.node:
        if node.output[0] in own:
            continue
        body.append(node)
        if node.output[0] in calls:  # a body's nodes come one after the other, its output last
            for inner in body:
                inner.metadata_props.extend(calls[node.output[0]].metadata_props)
            body = []
    name_nodes(result)
    return result


def expand_attention(model: ModelProto, chosen: Callable[[NodeProto], bool] = lambda node: True) -> ModelProto:
    """Inlines `model` and writes the chosen `Attention` nodes out as (scale * Q) K^T, softmax, times V.

    The scale is on the side of Q, where TensorRT looks for it when it fuses FP8 attention. New nodes are called
    `<module>.<n>.scores`, `.softmax` and `.context`, and carry the module they came from.
    """
    model = inline(model)
    nodes: list[NodeProto] = []
    count = 0
    for node in model.graph.node:
        if node.op_type != "Attention" or not chosen(node):
            nodes.append(node)
            continue
        new, initializers = _written_out(node, count)
        nodes.extend(new)
        model.graph.initializer.extend(initializers)
        count += 1
    replace_nodes(model, nodes)
    return model


def has_mask(node: NodeProto) -> bool:
    """Face attention masks what lies beyond the clip; self-attention masks nothing."""
    return len(node.input) > 3 and bool(node.input[3])


def _written_out(node: NodeProto, count: int) -> tuple[list[NodeProto], list[onnx.TensorProto]]:
    query, key, value = node.input[:3]
    prefix = f"{module_of(node) or 'attention'}.{count}"
    scale = next(item.f for item in node.attribute if item.name == "scale")
    initializers = [numpy_helper.from_array(np.array(scale, np.float32), f"{prefix}.scale")]
    nodes = [
        helper.make_node("Mul", [query, f"{prefix}.scale"], [f"{prefix}.q"]),
        helper.make_node("Transpose", [key], [f"{prefix}.k"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", [f"{prefix}.q", f"{prefix}.k"], [f"{prefix}.{SCORES}"]),
    ]
    scores = f"{prefix}.{SCORES}"
    if has_mask(node):
        low = np.array(-1e4, np.float32)  # small enough after softmax, and within FP16
        initializers.append(numpy_helper.from_array(low, f"{prefix}.low"))
        nodes.append(helper.make_node("Where", [node.input[3], scores, f"{prefix}.low"], [f"{prefix}.masked"]))
        scores = f"{prefix}.masked"
    nodes += [
        helper.make_node("Softmax", [scores], [f"{prefix}.{SOFTMAX}"], axis=-1),
        helper.make_node("MatMul", [f"{prefix}.{SOFTMAX}", value], [node.output[0]]),
    ]
    for index, new in enumerate(nodes):
        new.name = {2: f"{prefix}.{SCORES}", len(nodes) - 1: f"{prefix}.{CONTEXT}"}.get(index, new.output[0] + ".node")
        new.metadata_props.extend(node.metadata_props)
    return nodes, initializers
