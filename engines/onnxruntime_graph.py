"""An exported graph rewritten for ONNX Runtime on a CPU: the same function with fewer passes over memory.

The exported file stays standard for every runtime. What is done here is what ONNX Runtime's own passes leave: attention
and rotary positions become its fused operators in the layout that the projections already have, the joint projection of
queries, keys and values is cut into three (their split was a copy), the values' bias moves behind the attention (its
weights add up to one), the channel norm loses two full-size temporaries, and pixels are no longer gathered into patches
before a convolution that can stride over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

MICROSOFT = "com.microsoft"
Array = np.ndarray[Any, Any]


def optimize(source: Path, target: Path) -> dict[str, int]:
    """Reads the ONNX file `source`, writes the rewritten one to `target`; how often each rewrite applied.

    A graph in which nothing matches is written as it is. Weights lie inside the file, or beside it as `<target>.data`
    where the source had them outside.
    """
    model = ir.load(source)
    outside = any(isinstance(value.const_value, ir.ExternalTensor) for value in model.graph.initializers.values())
    counts = rewrite(model)
    ir.save(model, target, external_data=f"{target.name}.data" if outside else None)
    return counts


def rewrite(model: ir.Model) -> dict[str, int]:
    """Applies every rewrite to `model` in place."""
    graph = _Graph(model.graph)
    counts = {name: sum(rule(graph, node) for node in list(model.graph)) for name, rule in _RULES.items()}
    graph.sweep()
    model.graph.sort()
    if any(counts.values()):
        model.graph.opset_imports.setdefault(MICROSOFT, 1)
        model.opset_imports.setdefault(MICROSOFT, 1)
    return counts


@dataclass
class _Graph:
    """A graph and the helpers to rewrite it; `rows` remembers what was made once for all blocks."""

    graph: ir.Graph
    rows: dict[tuple[str, ...], ir.Value] = field(default_factory=dict)

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


def _attention(graph: _Graph, node: ir.Node) -> bool:
    """`FlashAttention` to MultiHeadAttention over [B,N,H*D], without any transpose before or after."""
    if (node.domain, node.op_type) != ("dreamactor", "FlashAttention"):
        return False
    heads = [_untransposed(graph, node, value) for value in node.inputs]
    if any(value is None for value in heads):
        return False
    q, k, v, k_reference, v_reference = (value for value in heads if value is not None)
    count = _static(node.inputs[0], 1)
    if count is None:
        return False
    keys = graph.add(node, "Concat", k, k_reference, name="keys", axis=1)
    values = graph.add(node, "Concat", v, v_reference, name="values", axis=1)
    scale = node.attributes["scale"].as_float()
    out = graph.add(node, "MultiHeadAttention", q, keys, values, domain=MICROSOFT, num_heads=count, scale=scale)
    graph.replace(node.outputs[0], out)
    return True


def _untransposed(graph: _Graph, at: ir.Node, value: ir.Value | None) -> ir.Value | None:
    """[B,H,N,D] as the [B,N,H*D] that it was made from: a bare head split, or one with norm and rotary positions."""
    if value is None:
        return None
    key = ("flat", str(value.name))
    if key in graph.rows:  # both streams' queries read the same keys
        return graph.rows[key]
    split = _heads(value)
    if split is not None:
        return split
    found = _rotated(value)
    if found is None:
        return None
    norm, cos, sin = found
    view = _through(norm.inputs[0], "Transpose")
    source = _through(view, "Reshape")
    if view is None or source is None:
        return None
    count = _static(norm.inputs[0], 1)
    if count is None:
        return None
    anchor, weight = value.producer(), norm.inputs[1]
    if anchor is None or weight is None:
        return None
    settings = {name: norm.attributes[name].value for name in ("axis", "epsilon")}  # the last axis: in any layout
    normed = graph.add(anchor, "RMSNormalization", view, weight, **settings)
    flat = graph.add(anchor, "Reshape", normed, graph.ints(0, 0, -1), name="merge")
    tables = [_row_table(graph, anchor, flat, table) for table in (cos, sin)]
    graph.rows[key] = graph.add(anchor, "RotaryEmbedding", flat, *tables, num_heads=count)
    return graph.rows[key]


def _heads(value: ir.Value | None) -> ir.Value | None:
    """x of Transpose(Reshape(x), [0,2,1,3])."""
    return _through(_through(value, "Transpose"), "Reshape")


def _rotated(value: ir.Value) -> tuple[ir.Node, ir.Value, ir.Value] | None:
    """(norm, cos, sin) of concat(x1*cos - x2*sin, x2*cos + x1*sin), x1 and x2 the halves of a norm's output."""
    concat = value.producer()
    if concat is None or concat.op_type != "Concat" or len(concat.inputs) != 2:
        return None
    first = _producer(concat.inputs[0], "Sub")
    second = _producer(concat.inputs[1], "Add")
    products = [_producer(v, "Mul") for node in (first, second) if node for v in node.inputs]
    if len(products) != 4 or any(product is None for product in products):
        return None
    (a, cos), (b, sin), (b2, cos2), (a2, sin2) = (tuple(p.inputs) for p in products if p)
    halves = _producer(a, "Split")
    if halves is None or (a, b, cos, sin) != (a2, b2, cos2, sin2) or [a, b] != list(halves.outputs):
        return None
    norm = _producer(halves.inputs[0], "RMSNormalization")
    return (norm, cos, sin) if norm is not None and cos is not None and sin is not None else None


def _row_table(graph: _Graph, at: ir.Node, like: ir.Value, table: ir.Value) -> ir.Value:
    """A table [N,D/2] as [B,N,D/2], B as in `like`; made once for each table."""
    key = ("table", str(table.name))
    if key not in graph.rows:
        batch = graph.add(at, "Shape", like, name=f"batch/{table.name}", start=0, end=1)
        tail = graph.add(at, "Shape", table, name=f"size/{table.name}")
        shape = graph.add(at, "Concat", batch, tail, name=f"shape/{table.name}", axis=0)
        graph.rows[key] = graph.add(at, "Expand", table, shape, name=f"rows/{table.name}")
    return graph.rows[key]


def _split_projection(graph: _Graph, node: ir.Node) -> bool:
    """Split(x W + b, 3) to three products; the third one's bias moves behind an attention that is alone to read it."""
    linear = _biased_product(node.inputs[0]) if node.op_type == "Split" and len(node.outputs) == 3 else None
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


def _move_bias(graph: _Graph, values: ir.Value, bias: Array) -> bool:
    """Adds `bias` W_out to the output projection behind every attention that reads `values`.

    Both streams' values have the same bias, so the attention's output has it too. Applied once for the pair: the marker
    in `rows` tells that a projection already has it.
    """
    readers = _attentions_of(values)
    if not readers:
        return False
    for reader in readers:
        for product in (use.node for use in reader.outputs[0].uses()):
            add = next((use.node for use in product.outputs[0].uses()), None)
            linear = _biased_product(add.outputs[0]) if add is not None else None
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


def _channel_norm(graph: _Graph, node: ir.Node) -> bool:
    """x / expand(max(|x|, eps)) to x * (1/sqrt(max(sum(x*x), eps^2))): ONNX Runtime sums faster than it takes norms."""
    if node.op_type != "Div":
        return False
    expand = _producer(node.inputs[1], "Expand")
    clip = _producer(expand.inputs[0], "Clip", "Max") if expand else None
    norm = _producer(clip.inputs[0], "ReduceL2") if clip else None
    x = node.inputs[0]
    if norm is None or clip is None or x is None or norm.inputs[0] is not x or norm.inputs[1] is None:
        return False
    low = clip.inputs[1]
    if low is None or low.const_value is None:
        return False
    square = graph.add(node, "Mul", x, x, name="square")
    total = graph.add(node, "ReduceSum", square, norm.inputs[1])
    smallest = graph.constant(f"{low.name}.squared", np.asarray(low.const_value.numpy(), np.float32) ** 2)
    root = graph.add(node, "Sqrt", graph.add(node, "Max", total, smallest))
    graph.replace(node.outputs[0], graph.add(node, "Mul", x, graph.add(node, "Reciprocal", root)))
    return True


def _strided_convolution(graph: _Graph, node: ir.Node) -> bool:
    """3x3 over b x b patches of pixels to 3b x 3b with stride b over the pixels: the same products."""
    if node.op_type != "Conv" or not _plain_3x3(node):
        return False
    patches, weight = node.inputs[0], node.inputs[1]
    while (through := _through(patches, "Reshape")) is not None:
        patches = through
    gather = _producer(patches, "Transpose")
    split = _producer(gather.inputs[0], "Reshape") if gather is not None else None
    shape = _producer(split.inputs[1], "Concat") if split is not None else None
    if gather is None or split is None or shape is None or not _has(gather, perm=(0, 1, 3, 5, 2, 4)):
        return False
    pixels, block = split.inputs[0], _constant_size(shape.inputs[3])
    if weight is None or weight.const_value is None or pixels is None or not block:
        return False
    old = weight.const_value.numpy()
    if _constant_size(shape.inputs[5]) != block or old.shape[1] % block**2:
        return False
    out, channels = old.shape[0], old.shape[1] // block**2
    taps = old.reshape(out, channels, block, block, 3, 3).transpose(0, 1, 4, 2, 5, 3)
    wide = graph.constant(f"{weight.name}.strided", taps.reshape(out, channels, 3 * block, 3 * block))
    bias = [value for value in node.inputs[2:] if value is not None]
    strided = graph.add(
        node, "Conv", pixels, wide, *bias, name="strided",
        kernel_shape=[3 * block] * 2, strides=[block] * 2, pads=[block] * 4,
    )  # fmt: skip
    graph.replace(node.outputs[0], strided)
    return True


def _plain_3x3(node: ir.Node) -> bool:
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    return group == 1 and _has(node, kernel_shape=(3, 3), strides=(1, 1), dilations=(1, 1), pads=(1, 1, 1, 1))


def _has(node: ir.Node, **wanted: tuple[int, ...]) -> bool:
    """Whether the node says these numbers; what it leaves to a default it does not say."""
    given = node.attributes
    return all(name in given and tuple(given[name].as_ints()) == numbers for name, numbers in wanted.items())


def _constant_size(value: ir.Value | None) -> int | None:
    """The one number of a constant [1]."""
    numbers = value.const_value.numpy() if value is not None and value.const_value is not None else None
    return int(numbers[0]) if numbers is not None and numbers.shape == (1,) else None


def _producer(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """The node that makes `value`, if it is one of `operators`."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in operators else None


def _through(value: ir.Value | None, operator: str) -> ir.Value | None:
    """The input of the `operator` that makes `value`."""
    node = _producer(value, operator)
    return node.inputs[0] if node is not None else None


def _biased_product(value: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """(x, weight, bias) of x W + b with constant W and b."""
    add = _producer(value, "Add")
    for product, bias in (add.inputs, reversed(add.inputs)) if add is not None else ():
        node = _producer(product, "MatMul")
        if node is None or bias is None or bias.const_value is None or node.inputs[1] is None:
            continue
        if node.inputs[1].const_value is not None and node.inputs[0] is not None:
            return node.inputs[0], node.inputs[1], bias
    return None


def _static(value: ir.Value | None, axis: int) -> int | None:
    """A dimension that is known without running, read off the shape or off the reshape that made it."""
    if value is not None and value.shape is not None and isinstance(value.shape[axis], int):
        return int(value.shape[axis])  # type: ignore[arg-type]
    return None


_RULES: dict[str, Callable[[_Graph, ir.Node], bool]] = {
    "attention": _attention,
    "split projection": _split_projection,
    "channel norm": _channel_norm,
    "strided convolution": _strided_convolution,
}


def describe(counts: dict[str, int]) -> Sequence[str]:
    """Sentences for an engine's manifest: what was rewritten."""
    return [f"{name}: rewritten {count} times for ONNX Runtime" for name, count in counts.items() if count]
