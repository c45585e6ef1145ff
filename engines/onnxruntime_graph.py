"""An exported graph rewritten for ONNX Runtime on a CPU: the same function with fewer passes over memory.

The exported file stays standard for every runtime. What is done here is what ONNX Runtime's own passes leave: attention
becomes its fused operators (`onnxruntime_attention.py`), the channel norm loses two full-size temporaries, and pixels
are no longer gathered into patches before a convolution that can stride over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from dreamactor.engines.graph import Graph, constant_size, has, producer, through
from dreamactor.engines.onnxruntime_attention import MICROSOFT, fuse_attention, split_projection


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
    graph = Graph(model.graph)
    counts = {name: sum(rule(graph, node) for node in list(model.graph)) for name, rule in _RULES.items()}
    graph.sweep()
    model.graph.sort()
    if any(counts.values()):
        model.graph.opset_imports.setdefault(MICROSOFT, 1)
        model.opset_imports.setdefault(MICROSOFT, 1)
    return counts


def _channel_norm(graph: Graph, node: ir.Node) -> bool:
    """x / expand(max(|x|, eps)) to x * (1/sqrt(max(sum(x*x), eps^2))): ONNX Runtime sums faster than it takes norms."""
    if node.op_type != "Div":
        return False
    expand = producer(node.inputs[1], "Expand")
    clip = producer(expand.inputs[0], "Clip", "Max") if expand else None
    norm = producer(clip.inputs[0], "ReduceL2") if clip else None
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


def _strided_convolution(graph: Graph, node: ir.Node) -> bool:
    """3x3 over b x b patches of pixels to 3b x 3b with stride b over the pixels: the same products."""
    if node.op_type != "Conv" or not _plain_3x3(node):
        return False
    patches, weight = node.inputs[0], node.inputs[1]
    while (source := through(patches, "Reshape")) is not None:
        patches = source
    gather = producer(patches, "Transpose")
    split = producer(gather.inputs[0], "Reshape") if gather is not None else None
    shape = producer(split.inputs[1], "Concat") if split is not None else None
    if gather is None or split is None or shape is None or not has(gather, perm=(0, 1, 3, 5, 2, 4)):
        return False
    pixels, block = split.inputs[0], constant_size(shape.inputs[3])
    if weight is None or weight.const_value is None or pixels is None or not block:
        return False
    old = weight.const_value.numpy()
    if constant_size(shape.inputs[5]) != block or old.shape[1] % block**2:
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
    return group == 1 and has(node, kernel_shape=(3, 3), strides=(1, 1), dilations=(1, 1), pads=(1, 1, 1, 1))


_RULES: dict[str, Callable[[Graph, ir.Node], bool]] = {
    "attention": fuse_attention,
    "split projection": split_projection,
    "channel norm": _channel_norm,
    "strided convolution": _strided_convolution,
}


def describe(counts: dict[str, int]) -> Sequence[str]:
    """Sentences for an engine's manifest: what was rewritten."""
    return [f"{name}: rewritten {count} times for ONNX Runtime" for name, count in counts.items() if count]
