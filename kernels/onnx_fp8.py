"""The bodies of the FP8 attention nodes: blocks of 128 tokens with a scale each, in standard operators.

They are what the kernels in `fp8.py` compute, to the last rounding of the inputs; the probabilities are not rounded.
"""

from __future__ import annotations

import torch
from onnx import FunctionProto, TensorProto

from dreamactor.kernels.onnx_body import Body
from dreamactor.kernels.reference import FP8_BLOCK, FP8_LEAST, FP8_MAX

ELEMENT_TYPES: dict[torch.dtype, int] = {
    torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16, torch.bfloat16: TensorProto.BFLOAT16,
}  # fmt: skip


def quantize_blocks_function() -> FunctionProto:
    """x [B,H,N,D], offset [B,H,D] -> out E4M3 [B,H,N,D], scale [B,H,T]."""
    body = Body()
    blocks, count = _scaled_blocks(body)
    rows = body.add(
        "Reshape", blocks, body.shape(0, 0, body.add("Mul", count, body.ints(FP8_BLOCK)), body.size("x", 3))
    )
    rows = body.add("Slice", rows, body.ints(0), body.size("x", 2), body.ints(2))
    body.add("Cast", rows, output="out", to=TensorProto.FLOAT8E4M3FN)
    return body.function("QuantizeBlocks", ["x", "offset"], [], ["out", "scale"])


def quantize_values_function() -> FunctionProto:
    """x [B,H,N,D], offset [B,H,D] -> out E4M3 [B,H,D,T*128] in the kernel's key order, scale [B,H,T]."""
    body = Body()
    blocks, count = _scaled_blocks(body)
    sixteens = body.add("Mul", count, body.ints(FP8_BLOCK // 16))
    split = body.add("Reshape", blocks, body.shape(0, 0, sixteens, 2, 4, 2, body.size("x", 3)))  # key 8i + 2t + j
    turned = body.add("Transpose", split, perm=[0, 1, 6, 2, 4, 3, 5])  # [B,H,D,T*8,t,i,j]
    length = body.add("Mul", count, body.ints(FP8_BLOCK))
    columns = body.add("Reshape", turned, body.shape(0, 0, body.size("x", 3), length))
    body.add("Cast", columns, output="out", to=TensorProto.FLOAT8E4M3FN)
    return body.function("QuantizeValues", ["x", "offset"], [], ["out", "scale"])


def flash_attention_function() -> FunctionProto:
    """Body of `FlashAttentionFP8`: everything made float32 again, then `Attention`, then the type asked for by `to`."""
    body = Body()
    keys = body.add("Concat", _rows(body, "k"), _rows(body, "k_reference"), axis=2)
    values = body.add("Concat", _values(body, "v", "k"), _values(body, "v_reference", "k_reference"), axis=2)
    out = body.add("Attention", _rows(body, "q"), keys, values, refer={"scale": "scale"})
    out = body.add("Transpose", out, perm=[0, 2, 1, 3])
    out = body.add("Reshape", out, body.ints(0, 0, -1))
    body.add("Cast", out, output="out", refer={"to": "to"})
    inputs = ["q", "k", "v", "k_reference", "v_reference"]
    return body.function("FlashAttentionFP8", inputs + [f"{name}_scale" for name in inputs], ["scale", "to"])


def _blocks_of(body: Body, tensor: str) -> str:
    """[1] count of blocks of 128 tokens on axis 2."""
    raised = body.add("Add", body.size(tensor, 2), body.ints(FP8_BLOCK - 1))
    return body.add("Div", raised, body.ints(FP8_BLOCK))


def _scaled_blocks(body: Body) -> tuple[str, str]:
    """Blocks of x - offset over their scale, [B,H,T,128,D]; writes `scale`; and T."""
    offset = body.add("Unsqueeze", "offset", body.ints(2))
    x = body.add("Sub", body.add("Cast", "x", to=TensorProto.FLOAT), offset)
    count = _blocks_of(body, "x")
    missing = body.add("Sub", body.add("Mul", count, body.ints(FP8_BLOCK)), body.size("x", 2))
    padded = body.add("Pad", x, body.shape(0, 0, 0, 0, 0, 0, missing, 0))
    blocks = body.add("Reshape", padded, body.shape(0, 0, count, FP8_BLOCK, body.size("x", 3)))
    largest = body.add("ReduceMax", body.add("Abs", blocks), body.ints(3, 4), keepdims=1)
    least, one = body.add("Constant", value_float=FP8_LEAST), body.add("Constant", value_float=1.0)
    ratio = body.add("Div", largest, body.add("Constant", value_float=FP8_MAX))
    scale = body.add("Where", body.add("Greater", largest, least), ratio, one)
    body.add("Squeeze", scale, body.ints(3, 4), output="scale")
    return body.add("Div", blocks, scale), count


def _per_token(body: Body, scale: str, count: str) -> str:
    """scale [B,H,T] -> [B,H,T*128,1]."""
    wide = body.add("Expand", body.add("Unsqueeze", scale, body.ints(3)), body.ints(1, 1, 1, FP8_BLOCK))
    return body.add("Reshape", wide, body.shape(0, 0, body.add("Mul", count, body.ints(FP8_BLOCK)), 1))


def _rows(body: Body, name: str) -> str:
    """Queries or keys in float32, [B,H,N,D]."""
    scale = _per_token(body, f"{name}_scale", body.size(f"{name}_scale", 2))
    scale = body.add("Slice", scale, body.ints(0), body.size(name, 2), body.ints(2))
    return body.add("Mul", body.add("Cast", name, to=TensorProto.FLOAT), scale)


def _values(body: Body, name: str, keys: str) -> str:
    """Values in float32 and in order, [B,H,N,D], N as of `keys`."""
    count = body.size(f"{name}_scale", 2)
    plain = body.add("Cast", name, to=TensorProto.FLOAT)  # [B,H,D,T*128]
    sixteens = body.add("Mul", count, body.ints(FP8_BLOCK // 16))
    split = body.add("Reshape", plain, body.shape(0, 0, body.size(name, 2), sixteens, 4, 2, 2))  # t, i, j
    turned = body.add("Transpose", split, perm=[0, 1, 3, 5, 4, 6, 2])  # [B,H,T*8,i,t,j,D]
    rows = body.add(
        "Reshape", turned, body.shape(0, 0, body.add("Mul", count, body.ints(FP8_BLOCK)), body.size(name, 2))
    )
    rows = body.add("Mul", rows, _per_token(body, f"{name}_scale", count))
    return body.add("Slice", rows, body.ints(0), body.size(keys, 2), body.ints(2))
