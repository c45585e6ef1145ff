"""What the networks call, and the `torch.library` operators behind it.

Each function goes one of three ways: in an ONNX export the attentions become custom nodes; on a GPU without gradients
the operator `dreamactor::<name>` runs the kernel (opaque to torch.compile, capturable in a CUDA graph after a first
call); everywhere else, training and the CPU above all, the plain reference runs as ordinary PyTorch, so autograd and
the compiler see through it. An operator called directly has a backward pass too: it computes the reference again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamactor.kernels import checks, dispatch, reference

FACE_KEYS = 128  # face tokens of a window beyond this run on the reference


def two_segment_attention(
    q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor, scale: float
) -> Tensor:
    """As `reference.two_segment_attention`; `dreamactor::FlashAttention` in ONNX."""
    if torch.onnx.is_in_onnx_export():
        from dreamactor.kernels import onnx

        return onnx.flash_attention(q, k, v, k_reference, v_reference, scale)
    if dispatch.by_operator("two_segment", q, k, v, k_reference, v_reference):
        return _two_segment_attention(q, k, v, k_reference, v_reference, scale)
    return reference.two_segment_attention(q, k, v, k_reference, v_reference, scale)


def face_attention(q: Tensor, k: Tensor, v: Tensor, frames: int, window: int, scale: float) -> Tensor:
    """As `reference.face_attention`; `dreamactor::FaceAttention` in ONNX."""
    if torch.onnx.is_in_onnx_export():
        from dreamactor.kernels import onnx

        return onnx.face_attention(q, k, v, frames, window, scale)
    if dispatch.by_operator("face_attention", q, k, v):
        return _face_attention(q, k, v, frames, window, scale)
    return reference.face_attention(q, k, v, frames, window, scale)


def norm_rope(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float = 1e-6) -> Tensor:
    """As `reference.norm_rope`."""
    if dispatch.by_operator("norm_rope", x, weight):
        return _norm_rope(x, weight, cos, sin, num_heads, eps)
    return reference.norm_rope(x, weight, cos, sin, num_heads, eps)


def modulate_norm(
    x: Tensor, shift: Tensor, scale: Tensor, branch: Tensor | None = None, gate: Tensor | None = None, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """As `reference.modulate_norm`; without a branch the residual returned is `x` itself."""
    if not dispatch.by_operator("modulate_norm", x, shift, scale, branch, gate):
        return reference.modulate_norm(x, shift, scale, branch, gate, eps)
    if branch is None or gate is None:
        return x, _modulate_norm(x, shift, scale, eps)
    return _gated_modulate_norm(x, shift, scale, branch, gate, eps)


def fp8_attention(q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor, scale: float) -> Tensor:
    """Opt-in: `two_segment_attention` in E4M3, as `reference.fp8_attention`; inference only, head size 128.

    In ONNX: `dreamactor::QuantizeBlocks`, `QuantizeValues` and `FlashAttentionFP8`.
    """
    if torch.onnx.is_in_onnx_export():
        from dreamactor.kernels import onnx

        return onnx.fp8_attention(q, k, v, k_reference, v_reference, scale)
    return _fp8_attention(q, k, v, k_reference, v_reference, scale)


def norm_rope_fp8(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float = 1e-6, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Opt-in: as `reference.norm_rope_fp8`, one pass over memory; what `fp8.attend` takes. Inference only."""
    return _norm_rope_fp8(x, weight, cos, sin, num_heads, eps, offset)


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor,
    block_index: Tensor, block_offsets: Tensor, scale: float,
) -> Tensor:  # fmt: skip
    """Opt-in: attention over listed blocks only, as `reference.sparse_attention`; see `sliding_tiles`."""
    tensors = (q, k, v, k_reference, v_reference)
    if dispatch.by_operator("sparse_attention", *tensors):
        return _sparse_attention(*tensors, block_index, block_offsets, scale)
    return reference.sparse_attention(*tensors, block_index, block_offsets, scale)


def _refusal(scale: float, keys: int) -> str:
    """What stands in a kernel's way: it takes the largest score first, and of at least one key."""
    if scale <= 0:
        return f"its scale is {scale:g}, not positive"
    return "" if keys else "there are no keys"


def _rows(*tensors: Tensor) -> tuple[Any, ...]:
    """The tensors with a last dimension of stride 1, copied only if need be."""
    return tuple(tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in tensors)


@torch.library.custom_op("dreamactor::two_segment_attention", mutates_args=())
def _two_segment_attention(
    q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor, scale: float
) -> Tensor:
    q, k, v, k_reference, v_reference = segments = _rows(q, k, v, k_reference, v_reference)
    checks.segments(*segments)
    refused = _refusal(scale, k.shape[2] + k_reference.shape[2])
    tile = dispatch.pick("two_segment", q.shape[-1], *segments, refused=refused)
    if tile is None or q.numel() == 0:
        return reference.two_segment_attention(q, k, v, k_reference, v_reference, scale)
    from dreamactor.kernels import two_segment

    with torch.cuda.device(q.device):
        return two_segment.launch(q, k, v, k_reference, v_reference, scale, tile)


@torch.library.custom_op("dreamactor::face_attention", mutates_args=())
def _face_attention(q: Tensor, k: Tensor, v: Tensor, frames: int, window: int, scale: float) -> Tensor:
    q, k, v = _rows(q, k, v)
    checks.face(q, k, v, frames)
    keys = (2 * window + 1) * (k.shape[2] // frames)
    many = f"its window holds {keys} face tokens, more than {FACE_KEYS}" if keys > FACE_KEYS else ""
    tile = dispatch.pick("face_attention", q.shape[-1], q, k, v, refused=many or _refusal(scale, keys))
    if tile is None or q.numel() == 0:
        return reference.face_attention(q, k, v, frames, window, scale)
    from dreamactor.kernels import face

    with torch.cuda.device(q.device):
        return face.launch(q, k, v, frames, window, scale, tile)


@torch.library.custom_op("dreamactor::norm_rope", mutates_args=())
def _norm_rope(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float) -> Tensor:
    checks.rope(x, weight, cos, sin, num_heads)
    tile = dispatch.pick("norm_rope", x.shape[-1] // num_heads, x)
    if tile is None or x.numel() == 0:
        return reference.norm_rope(x, weight, cos, sin, num_heads, eps)
    from dreamactor.kernels import rotary

    (x,) = _rows(x)
    with torch.cuda.device(x.device):
        return rotary.launch(x, weight.contiguous(), cos.contiguous(), sin.contiguous(), num_heads, eps, tile)


@torch.library.custom_op("dreamactor::norm_rope_fp8", mutates_args=())
def _norm_rope_fp8(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float, offset: Tensor | None
) -> tuple[Tensor, Tensor]:
    checks.rope(x, weight, cos, sin, num_heads, offset)
    tile = dispatch.pick("norm_rope", x.shape[-1] // num_heads, x, fp8=True)
    if tile is None or x.numel() == 0:
        return reference.norm_rope_fp8(x, weight, cos, sin, num_heads, eps, offset)
    from dreamactor.kernels import rotary

    (x,) = _rows(x)
    shift = None if offset is None else offset.float().contiguous()
    with torch.cuda.device(x.device):
        return rotary.launch_fp8(x, weight.contiguous(), cos.contiguous(), sin.contiguous(), num_heads, eps, shift)


@torch.library.custom_op("dreamactor::modulate_norm", mutates_args=())
def _modulate_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    checks.modulation(x, shift, scale)
    tile = dispatch.pick("modulate_norm", x.shape[-1], x)
    if tile is None or x.numel() == 0:
        return _as_kernel(reference.modulate_norm(x, shift, scale, None, None, eps)[1], x)
    from dreamactor.kernels import modulate

    with torch.cuda.device(x.device):
        return modulate.launch(x, shift, scale, None, None, eps, tile)[1]


@torch.library.custom_op("dreamactor::gated_modulate_norm", mutates_args=())
def _gated_modulate_norm(
    x: Tensor, shift: Tensor, scale: Tensor, branch: Tensor, gate: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    checks.modulation(x, shift, scale, gate, branch=branch)
    tile = dispatch.pick("modulate_norm", x.shape[-1], x, branch)
    if tile is None or x.numel() == 0:
        residual, normed = reference.modulate_norm(x, shift, scale, branch, gate, eps)
        return _as_kernel(residual, x), _as_kernel(normed, x)
    from dreamactor.kernels import modulate

    with torch.cuda.device(x.device):
        kept, normed = modulate.launch(x, shift, scale, branch, gate, eps, tile)
    assert kept is not None
    return kept, normed


def _as_kernel(tensor: Tensor, x: Tensor) -> Tensor:
    """A reference's result as the kernel and the fake give it: of x's type, contiguous."""
    return tensor.to(x.dtype).contiguous()


@torch.library.custom_op("dreamactor::fp8_attention", mutates_args=())
def _fp8_attention(q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor, scale: float) -> Tensor:
    q, k, v, k_reference, v_reference = segments = _rows(q, k, v, k_reference, v_reference)
    checks.segments(*segments)
    refused = _refusal(scale, k.shape[2] + k_reference.shape[2])
    tile = dispatch.pick("fp8_attention", q.shape[-1], *segments, fp8=True, refused=refused)
    if tile is None or q.numel() == 0:
        return reference.fp8_attention(q, k, v, k_reference, v_reference, scale)
    from dreamactor.kernels import fp8

    with torch.cuda.device(q.device):
        return fp8.launch(q, k, v, k_reference, v_reference, scale, tile, dispatch.architecture(q.device))


@torch.library.custom_op("dreamactor::sparse_attention", mutates_args=())
def _sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor,
    block_index: Tensor, block_offsets: Tensor, scale: float,
) -> Tensor:  # fmt: skip
    q, k, v, k_reference, v_reference = segments = _rows(q, k, v, k_reference, v_reference)
    lists = (block_index, block_offsets)
    checks.segments(*segments)
    checks.lists(q, k, *lists)
    tile = dispatch.pick("sparse_attention", q.shape[-1], *segments, refused=_refusal(scale, q.shape[2]))
    if tile is None or q.numel() == 0:
        return reference.sparse_attention(q, k, v, k_reference, v_reference, *lists, scale)
    from dreamactor.kernels import sparse

    with torch.cuda.device(q.device):
        return sparse.launch(q, k, v, k_reference, v_reference, *lists, scale, tile)


def _merged(q: Tensor, *_: Any) -> Tensor:
    """Fake result of an attention: [B,H,M,D] -> [B,M,H*D]."""
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1] * q.shape[3])


def _head_major(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float) -> Tensor:
    return x.new_empty(x.shape[0], num_heads, x.shape[1], x.shape[2] // num_heads)


def _head_major_fp8(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float, offset: Tensor | None
) -> tuple[Tensor, Tensor]:
    batch, tokens, channels = x.shape
    out = x.new_empty(batch, num_heads, tokens, channels // num_heads, dtype=torch.float8_e4m3fn)
    blocks = (tokens + reference.FP8_BLOCK - 1) // reference.FP8_BLOCK
    return out, x.new_empty(batch, num_heads, blocks, dtype=torch.float32)


def _recomputed(operator: Any, plain: Callable[..., Any], count: int) -> None:
    """Give `operator` a backward pass that runs `plain` again; its first `count` arguments are tensors."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:count])
        ctx.rest = inputs[count:]

    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        wanted = ctx.needs_input_grad[:count]
        with torch.enable_grad():
            saved = zip(ctx.saved_tensors, wanted, strict=True)
            tensors = [tensor.detach().requires_grad_(need) for tensor, need in saved]
            outputs = plain(*tensors, *ctx.rest)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        needed = [tensor for tensor, need in zip(tensors, wanted, strict=True) if need]
        found = iter(torch.autograd.grad(outputs, needed, gradients))
        return (*(next(found) if need else None for need in wanted), *(None for _ in ctx.rest))

    operator.register_autograd(backward, setup_context=save)


for _operator in (_two_segment_attention, _face_attention, _fp8_attention, _sparse_attention):
    _operator.register_fake(_merged)
_norm_rope.register_fake(_head_major)
_norm_rope_fp8.register_fake(_head_major_fp8)
_modulate_norm.register_fake(lambda x, shift, scale, eps: torch.empty_like(x, memory_format=torch.contiguous_format))
_gated_modulate_norm.register_fake(
    lambda x, *_: tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2))
)
_recomputed(_two_segment_attention, reference.two_segment_attention, 5)
_recomputed(_face_attention, reference.face_attention, 3)
_recomputed(_norm_rope, reference.norm_rope, 4)
_recomputed(_modulate_norm, lambda x, shift, scale, eps: reference.modulate_norm(x, shift, scale, eps=eps)[1], 3)
_recomputed(_gated_modulate_norm, reference.modulate_norm, 5)
_recomputed(_sparse_attention, reference.sparse_attention, 7)
