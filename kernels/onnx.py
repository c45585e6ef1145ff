"""The attention operators in ONNX: custom nodes that carry a body of standard operators.

`flash_attention` and `face_attention` put one node into the graph being exported; `attach_functions` then gives the
program a model-local function for each kind of node it holds. ONNX Runtime runs that body, TensorRT-RTX inlines it,
TensorRT takes the plugin that the node's `plugin_namespace` names (facts: a wrong namespace falls back silently, so the
builder checks the layer type after parsing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir
import torch
from onnx import FunctionProto, NodeProto, OperatorSetIdProto, helper
from torch import Tensor

DOMAIN = "dreamactor"
OPSET = 23
PLUGIN_VERSION = "1"
_PLUGIN_ATTRIBUTES: dict[str, int | float | str] = {
    "plugin_namespace": DOMAIN, "plugin_version": PLUGIN_VERSION, "aot": 1,
}  # fmt: skip


def flash_attention(q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor, scale: float) -> Tensor:
    """The node `dreamactor::FlashAttention`; shapes as `reference.two_segment_attention`."""
    batch, heads, tokens, size = q.shape
    inputs = (q, k, v, k_reference, v_reference)
    return _node("FlashAttention", inputs, {"scale": float(scale)}, [batch, tokens, heads * size])


def face_attention(q: Tensor, k: Tensor, v: Tensor, frames: int, window: int, scale: float) -> Tensor:
    """The node `dreamactor::FaceAttention`, whose inputs are 5-D so that frames and tokens a frame stay dynamic.

    Arguments as `reference.face_attention`. Node: q [B,H,F,P,D]; k, v [B,H,F,G,D] -> [B,F*P,H*D].
    """
    batch, heads, tokens, size = q.shape
    inputs = tuple(tensor.unflatten(2, (frames, tensor.shape[2] // frames)) for tensor in (q, k, v))
    return _node("FaceAttention", inputs, {"window": int(window), "scale": float(scale)}, [batch, tokens, heads * size])


def _node(
    name: str, inputs: Sequence[Tensor], attributes: dict[str, int | float | str], shape: Sequence[Any]
) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}", inputs, {**attributes, **_PLUGIN_ATTRIBUTES}, dtype=inputs[0].dtype, shape=shape, version=1
    )


def attach_functions(program: torch.onnx.ONNXProgram) -> None:
    """Give `program` the function body of every `dreamactor` node it holds; call it after `torch.onnx.export`.

    The bodies are written in opset 23, so the program must be of opset 23 or later.
    """
    model = program.model
    opset = model.opset_imports.get("", 0)
    for node in model.graph.all_nodes():
        if node.domain != DOMAIN or (node.domain, node.op_type, "") in model.functions:
            continue
        if node.op_type not in FUNCTIONS:
            raise ValueError(f"No function body for '{DOMAIN}::{node.op_type}'; there are {', '.join(FUNCTIONS)}.")
        if opset < OPSET:
            raise ValueError(f"The graph is of opset {opset}; export with opset_version={OPSET} or later.")
        function = onnx_ir.serde.deserialize_function(FUNCTIONS[node.op_type]())
        model.functions[function.identifier()] = function
        model.opset_imports.setdefault(DOMAIN, 1)


class _Body:
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

    def function(self, name: str, inputs: Sequence[str], attributes: Sequence[str]) -> FunctionProto:
        imports: list[OperatorSetIdProto] = [helper.make_opsetid("", OPSET)]
        names = [*attributes, *_PLUGIN_ATTRIBUTES]
        return helper.make_function(DOMAIN, name, list(inputs), ["out"], self.nodes, imports, names)


def flash_attention_function() -> FunctionProto:
    """Body of `FlashAttention`: concatenated keys and values, `Attention`, heads merged."""
    body = _Body()
    keys = body.add("Concat", "k", "k_reference", axis=2)
    values = body.add("Concat", "v", "v_reference", axis=2)
    out = body.add("Attention", "q", keys, values, refer={"scale": "scale"})
    out = body.add("Transpose", out, perm=[0, 2, 1, 3])
    body.add("Reshape", out, body.ints(0, 0, -1), output="out")
    return body.function("FlashAttention", ["q", "k", "v", "k_reference", "v_reference"], ["scale"])


def face_attention_function() -> FunctionProto:
    """Body of `FaceAttention`: each frame's window of face tokens is gathered, frames become the batch of `Attention`.

    Frames beyond either end are masked by a [B*F,1,P,S] tensor, S = (2*window+1)*G: a few kilobytes.
    """
    body = _Body()
    frames = body.size("q", 2)
    count = body.add("Squeeze", frames, body.ints(0))
    window = body.window()
    width = body.add("Add", body.add("Add", window, window), body.add("Constant", value_int=1))
    offsets = body.add("Sub", body.arange(width), window)
    wanted = body.add("Add", body.add("Unsqueeze", body.arange(count), body.ints(1)), offsets)  # [F, 2w+1]
    last = body.add("Sub", count, body.add("Constant", value_int=1))
    zero = body.add("Constant", value_int=0)
    frame = body.add("Min", body.add("Max", wanted, zero), last)
    real = body.add("Equal", frame, wanted)  # [F, 2w+1]

    def batched(tensor: str) -> str:
        """[B,H,F,...,D] with frames joined to the batch and what lies between joined to one axis: [B*F,H,n,D]."""
        swapped = body.add("Transpose", tensor, perm=[0, 2, 1, 3, 4])  # [B,F,H,n,D]
        shape = body.add("Concat", body.ints(-1), body.add("Shape", swapped, start=2), axis=0)
        return body.add("Reshape", swapped, shape)

    def windows(tensor: str) -> str:
        gathered = body.add("Gather", tensor, frame, axis=2)  # [B,H,F,2w+1,G,D]
        shape = body.add("Concat", body.ints(0, 0, 0, -1), body.size(tensor, 4), axis=0)
        return batched(body.add("Reshape", gathered, shape))

    width_shape = body.add("Concat", body.add("Shape", frame), body.size("k", 3), axis=0)
    mask = body.add("Expand", body.add("Unsqueeze", real, body.ints(2)), width_shape)  # [F,2w+1,G]
    mask = body.add("Reshape", mask, body.add("Concat", body.ints(1), frames, body.ints(1, 1, -1), axis=0))
    one = body.ints(1)
    mask = body.add("Expand", mask, body.add("Concat", body.size("q", 0), one, one, body.size("q", 3), one, axis=0))
    mask = body.add(
        "Reshape", mask, body.add("Concat", body.ints(-1, 1), body.add("Shape", mask, start=3), axis=0)
    )  # [B*F,1,P,S]
    out = body.add("Attention", batched("q"), windows("k"), windows("v"), mask, refer={"scale": "scale"})  # [B*F,H,P,D]
    head_shape = body.add("Shape", "q", start=3)
    split = body.add("Concat", body.size("q", 0), body.ints(-1), body.size("q", 1), head_shape, axis=0)
    out = body.add("Transpose", body.add("Reshape", out, split), perm=[0, 1, 3, 2, 4])  # [B,F,P,H,D]
    merged = body.add("Reshape", out, body.ints(0, 0, 0, -1))
    total = body.add("Concat", body.size("q", 0), body.ints(-1), body.size(merged, 3), axis=0)
    body.add("Reshape", merged, total, output="out")
    return body.function("FaceAttention", ["q", "k", "v"], ["window", "scale"])


FUNCTIONS: dict[str, Callable[[], FunctionProto]] = {
    "FlashAttention": flash_attention_function,
    "FaceAttention": face_attention_function,
}
