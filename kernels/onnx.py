"""The attention operators in ONNX: custom nodes that carry a body of standard operators.

`flash_attention` and `face_attention` put one node into the graph being exported; `attach_functions` then gives the
program a model-local function for each kind of node it holds. ONNX Runtime runs that body, TensorRT-RTX inlines it,
TensorRT takes the plugin that the node's `plugin_namespace` names. It says nothing of a name that it does not know and
takes the body, so the builder looks at the types of the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir
import torch
from onnx import FunctionProto
from torch import Tensor

from dreamactor.kernels import onnx_fp8
from dreamactor.kernels.onnx_body import DOMAIN, OPSET, PLUGIN_ATTRIBUTES, Body
from dreamactor.kernels.reference import FP8_BLOCK


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
    name: str, inputs: Sequence[Tensor], attributes: Mapping[str, int | float | str], shape: Sequence[Any],
    dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}", inputs, {**attributes, **PLUGIN_ATTRIBUTES}, dtype=dtype or inputs[0].dtype, shape=shape,
        version=1,
    )  # fmt: skip


def fp8_attention(q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor, scale: float) -> Tensor:
    """Nodes that quantise by blocks, `dreamactor::QuantizeBlocks` and `QuantizeValues`, and `FlashAttentionFP8`.

    Shapes as `reference.fp8_attention`. For TensorRT with the kernels, and ONNX Runtime. Not for TensorRT-RTX, which
    takes no Cast to FP8: it fuses FP8 attention from Q/DQ around `Attention` instead.
    """
    batch, heads, tokens, size = q.shape
    count = k.shape[2] + k_reference.shape[2]
    mean = (k.float().sum(2) + k_reference.float().sum(2)) / count
    none = torch.zeros_like(mean)
    parts = [
        _quantized("QuantizeBlocks", q, none), _quantized("QuantizeBlocks", k, mean),
        _quantized("QuantizeValues", v, none), _quantized("QuantizeBlocks", k_reference, mean),
        _quantized("QuantizeValues", v_reference, none),
    ]  # fmt: skip
    inputs = [part[0] for part in parts] + [part[1] for part in parts]
    attributes = {"scale": float(scale), "to": onnx_fp8.ELEMENT_TYPES[q.dtype]}
    return _node("FlashAttentionFP8", inputs, attributes, [batch, tokens, heads * size], q.dtype)


def _quantized(name: str, x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    batch, heads, tokens, size = x.shape
    blocks = (tokens + FP8_BLOCK - 1) // FP8_BLOCK
    shape = [batch, heads, tokens, size] if name == "QuantizeBlocks" else [batch, heads, size, blocks * FP8_BLOCK]
    out, scale = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{name}", (x, offset), dict(PLUGIN_ATTRIBUTES), dtypes=(torch.float8_e4m3fn, torch.float32),
        shapes=(shape, [batch, heads, blocks]), version=1,
    )  # fmt: skip
    return out, scale


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


def flash_attention_function() -> FunctionProto:
    """Body of `FlashAttention`: concatenated keys and values, `Attention`, heads merged."""
    body = Body()
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
    body = Body()
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
    "FlashAttentionFP8": onnx_fp8.flash_attention_function,
    "QuantizeBlocks": onnx_fp8.quantize_blocks_function,
    "QuantizeValues": onnx_fp8.quantize_values_function,
}
