"""Attention and its projections as ONNX Runtime's fused operators, in the layout that the projections already have.

Rotary positions go into an operator of their own, the joint projection of queries, keys and values is cut into three
(their split was a copy), and the values' bias moves behind the attention, whose weights add up to one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dreamactor.engines.graph import Array, Graph, biased_product, producer, static_size, through

MICROSOFT = "com.microsoft"


def fuse_attention(graph: Graph, node: ir.Node) -> bool:
    """`FlashAttention` to MultiHeadAttention over [B,N,H*D], without any transpose before or after."""
    if (node.domain, node.op_type) != ("dreamactor", "FlashAttention"):
        return False
    heads = [_untransposed(graph, value) for value in node.inputs]
    if any(value is None for value in heads):
        return False
    q, k, v, k_reference, v_reference = (value for value in heads if value is not None)
    count = static_size(node.inputs[0], 1)
    if count is None:
        return False
    keys = graph.add(node, "Concat", k, k_reference, name="keys", axis=1)
    values = graph.add(node, "Concat", v, v_reference, name="values", axis=1)
    scale = node.attributes["scale"].as_float()
    out = graph.add(node, "MultiHeadAttention", q, keys, values, domain=MICROSOFT, num_heads=count, scale=scale)
    graph.replace(node.outputs[0], out)
    return True


def _untransposed(graph: Graph, value: ir.Value | None) -> ir.Value | None:
    """[B,H,N,D] as the [B,N,H*D] that it was made from: a bare head split, or one with norm and rotary positions."""
    if value is None:
        return None
    key = ("flat", str(value.name))
    if key in graph.made:  # both streams' queries read the same keys
        return graph.made[key]
    split = _heads(value)
    if split is not None:
        return split
    found = _rotated(value)
    if found is None:
        return None
    norm, cos, sin = found
    view = through(norm.inputs[0], "Transpose")
    source = through(view, "Reshape")
    if view is None or source is None:
        return None
    count = static_size(norm.inputs[0], 1)
    if count is None:
        return None
    anchor, weight = value.producer(), norm.inputs[1]
    if anchor is None or weight is None:
        return None
    settings = {name: norm.attributes[name].value for name in ("axis", "epsilon")}  # the last axis: in any layout
    normed = graph.add(anchor, "RMSNormalization", view, weight, **settings)
    flat = graph.add(anchor, "Reshape", normed, graph.ints(0, 0, -1), name="merge")
    tables = [_row_table(graph, anchor, flat, table) for table in (cos, sin)]
    graph.made[key] = graph.add(anchor, "RotaryEmbedding", flat, *tables, num_heads=count)
    return graph.made[key]


def _heads(value: ir.Value | None) -> ir.Value | None:
    """x of Transpose(Reshape(x), [0,2,1,3])."""
    return through(through(value, "Transpose"), "Reshape")


def _rotated(value: ir.Value) -> tuple[ir.Node, ir.Value, ir.Value] | None:
    """(norm, cos, sin) of concat(x1*cos - x2*sin, x2*cos + x1*sin), x1 and x2 the halves of a norm's output."""
    concat = value.producer()
    if concat is None or concat.op_type != "Concat" or len(concat.inputs) != 2:
        return None
    first = producer(concat.inputs[0], "Sub")
    second = producer(concat.inputs[1], "Add")
    products = [producer(v, "Mul") for node in (first, second) if node for v in node.inputs]
    if len(products) != 4 or any(product is None for product in products):
        return None
    (a, cos), (b, sin), (b2, cos2), (a2, sin2) = (tuple(p.inputs) for p in products if p)
    halves = producer(a, "Split")
    if halves is None or (a, b, cos, sin) != (a2, b2, cos2, sin2) or [a, b] != list(halves.outputs):
        return None
    norm = producer(halves.inputs[0], "RMSNormalization")
    return (norm, cos, sin) if norm is not None and cos is not None and sin is not None else None


def _row_table(graph: Graph, at: ir.Node, like: ir.Value, table: ir.Value) -> ir.Value:
    """A table [N,D/2] as [B,N,D/2], B as in `like`; made once for each table."""
    key = ("table", str(table.name))
    if key not in graph.made:
        batch = graph.add(at, "Shape", like, name=f"batch/{table.name}", start=0, end=1)
        tail = graph.add(at, "Shape", table, name=f"size/{table.name}")
        shape = graph.add(at, "Concat", batch, tail, name=f"shape/{table.name}", axis=0)
        graph.made[key] = graph.add(at, "Expand", table, shape, name=f"rows/{table.name}")
    return graph.made[key]


def split_projection(graph: Graph, node: ir.Node) -> bool:
    """Split(x W + b, 3) to three products; the third one's bias moves behind an attention that is alone to read it."""
    linear = biased_product(node.inputs[0]) if node.op_type == "Split" and len(node.outputs) == 3 else None
    if linear is None:
        return False
    x, weight, bias = linear
    origin = node.inputs[0].producer() if node.inputs[0] is not None else None
    if origin is not None:
        node.metadata_props.update(origin.metadata_props)  # the exporter does not say where a split came from
    columns = weight.const_value.numpy(), bias.const_value.numpy()  # type: ignore[union-attr]
    parts = zip(*(np.split(values, 3, -1) for values in columns), node.outputs, "qkv", strict=True)
    for part_weight, part_bias, output, letter in parts:
        product = graph.add(node, "MatMul", x, graph.constant(f"{weight.name}.{letter}", part_weight), name=letter)
        if letter == "v" and _move_bias(graph, output, part_bias):
            graph.replace(output, product)
            continue
        term = graph.constant(f"{bias.name}.{letter}", part_bias)
        graph.replace(output, graph.add(node, "Add", product, term, name=f"{letter}_bias"))
    return True


def _move_bias(graph: Graph, values: ir.Value, bias: Array) -> bool:
    """Adds `bias` W_out to the output projection behind every attention that reads `values`.

    Both streams' values have the same bias, so the attention's output has it too. Applied once for the pair: the
    bias's name tells that a projection already has it.
    """
    readers = _attentions_of(values)
    if not readers:
        return False
    for reader in readers:
        for product in (use.node for use in reader.outputs[0].uses()):
            add = next((use.node for use in product.outputs[0].uses()), None)
            linear = biased_product(add.outputs[0]) if add is not None else None
            if linear is None or product.op_type != "MatMul":
                return False
            _, weight, old = linear
            name = f"{old.name}.with_values"
            total = old.const_value.numpy() + bias @ weight.const_value.numpy()  # type: ignore[union-attr]
            if not str(old.name).endswith(".with_values"):
                assert add is not None
                index = next(i for i, value in enumerate(add.inputs) if value is old)
                add.replace_input_with(index, graph.constant(name, total.astype(np.float32)))
    return True


def _attentions_of(value: ir.Value) -> list[ir.Node]:
    """The attentions that `value` reaches through concatenations along the tokens; [] if anything else reads it."""
    found: list[ir.Node] = []
    for use in value.uses():
        node = use.node
        if node.op_type == "MultiHeadAttention" and use.idx == 2:
            found.append(node)
        elif node.op_type == "Concat" and node.attributes["axis"].as_int() == 1:
            deeper = _attentions_of(node.outputs[0])
            if not deeper:
                return []
            found += deeper
        elif node.outputs and any(output.uses() for output in node.outputs):
            return []
    return found
