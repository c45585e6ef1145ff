"""Plain PyTorch forms of every kernel: what they compute, what runs where no kernel can, what tests compare with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def two_segment_attention(
    q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor, scale: float
) -> Tensor:
    """Attention of q over the keys of two buffers, as if concatenated.

    q [B,H,M,D]; k, v [B,H,N,D]; k_reference, v_reference [B,H,R,D], N or R may be 0 -> [B,M,H*D].
    """
    k, v = torch.cat([k, k_reference], 2), torch.cat([v, v_reference], 2)
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return out.transpose(1, 2).flatten(2)


def _wide(x: Tensor) -> Tensor:
    """In float32, or in float64 what is that already."""
    return x if x.dtype == torch.float64 else x.float()


def norm_rope(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float = 1e-6) -> Tensor:
    """RMSNorm of each head, half-split rotary positions, head-major layout.

    x [B,N,H*D]; weight [D]; cos, sin [N,D/2] -> [B,H,N,D].
    """
    heads = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    wide = _wide(heads)
    normed = F.rms_norm(wide, (heads.shape[-1],), weight.to(wide.dtype), eps)
    first, second = normed.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


def face_attention(q: Tensor, k: Tensor, v: Tensor, frames: int, window: int, scale: float) -> Tensor:
    """Attention of each latent frame's tokens over the face tokens of the frames at most `window` away.

    q [B,H,F*P,D]; k, v [B,H,F*G,D] -> [B,F*P,H*D].
    """
    batch = q.shape[0]
    q, k, v = (tensor.unflatten(2, (frames, tensor.shape[2] // frames)) for tensor in (q, k, v))  # [B,H,F,n,D]
    index = torch.arange(frames, device=q.device)[:, None] + torch.arange(-window, window + 1, device=q.device)
    clamped = index.clamp(0, frames - 1)  # [F,2w+1]
    visible = (index == clamped).repeat_interleave(k.shape[3], 1)[:, None, None].repeat(batch, 1, 1, 1)  # [B*F,1,1,S]

    def windows(tensor: Tensor) -> Tensor:
        return tensor[:, :, clamped].flatten(3, 4).transpose(1, 2).flatten(0, 1)  # [B*F,H,S,D]

    q = q.transpose(1, 2).flatten(0, 1)  # [B*F,H,P,D]
    out = F.scaled_dot_product_attention(q, windows(k), windows(v), attn_mask=visible, scale=scale)
    return out.transpose(1, 2).reshape(batch, -1, out.shape[1] * out.shape[3])


def modulate_norm(
    x: Tensor, shift: Tensor, scale: Tensor, branch: Tensor | None = None, gate: Tensor | None = None, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Gated residual, then LayerNorm without weights, then the timestep's scale and shift, which are per latent frame.

    x, branch [B,F*P,C]; shift, scale, gate [B,F,C] -> (x + gate*branch, modulated norm of it), both [B,F*P,C].
    """
    frames = shift.shape[1]
    x = x.unflatten(1, (frames, -1))
    if branch is not None and gate is not None:
        x = x + gate[:, :, None] * branch.unflatten(1, (frames, -1))
    normed = F.layer_norm(_wide(x), (x.shape[-1],), eps=eps).to(x.dtype) * (1 + scale[:, :, None]) + shift[:, :, None]
    return x.flatten(1, 2), normed.flatten(1, 2)


FP8_BLOCK = 128  # tokens that share a scale
FP8_MAX = 448.0  # E4M3's largest
FP8_LEAST = 1e-30  # a block whose largest magnitude is this or less is as good as zeros: 1 / scale stays finite
_SCORES = 2**28  # of fp8_attention at a time: a clip's would be hundreds of gigabytes


def quantize_blocks(x: Tensor) -> tuple[Tensor, Tensor]:
    """E4M3 with one scale for each 128 tokens: [B,H,N,D] -> (float8_e4m3fn [B,H,N,D], float32 [B,H,ceil(N/128)])."""
    padded = F.pad(x.float(), (0, 0, 0, -x.shape[2] % FP8_BLOCK)).unflatten(2, (-1, FP8_BLOCK))
    largest = padded.abs().amax((3, 4))
    scale = torch.where(largest > FP8_LEAST, largest / FP8_MAX, 1.0)
    quantized = (padded / scale[..., None, None]).flatten(2, 3)[:, :, : x.shape[2]]
    return quantized.to(torch.float8_e4m3fn), scale


def dequantize_blocks(x: Tensor, scale: Tensor) -> Tensor:
    """Inverse of `quantize_blocks`, float32."""
    return x.float() * scale.repeat_interleave(FP8_BLOCK, 2)[:, :, : x.shape[2], None]


def norm_rope_fp8(
    x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float = 1e-6, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`norm_rope`, then `quantize_blocks` less an offset [B,H,D]: E4M3 [B,H,N,D] and scales [B,H,ceil(N/128)]."""
    rotated = norm_rope(x.float(), weight, cos, sin, num_heads, eps)
    return quantize_blocks(rotated if offset is None else rotated - offset[:, :, None])


def fp8_attention(q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor, scale: float) -> Tensor:
    """`two_segment_attention` of queries, keys and values rounded to E4M3 by blocks, the mean key taken off first.

    The probabilities are rounded too, scaled to 256 at each row's largest; sums are float32. Queries are taken in
    parts: memory for scores does not grow with their number.
    """
    count = k.shape[2] + k_reference.shape[2]
    mean = (k.float().sum(2, keepdim=True) + k_reference.float().sum(2, keepdim=True)) / count

    def rounded(x: Tensor) -> Tensor:
        return dequantize_blocks(*quantize_blocks(x))

    keys = torch.cat([rounded(k.float() - mean), rounded(k_reference.float() - mean)], 2)
    values = torch.cat([rounded(v), rounded(v_reference)], 2)
    rows = max(1, _SCORES // max(1, q.shape[0] * q.shape[1] * count))
    out = torch.cat([_fp8_rows(part, keys, values, scale) for part in rounded(q).split(rows, 2)], 2)
    return out.transpose(1, 2).flatten(2).to(q.dtype)


def _fp8_rows(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    scores = q @ keys.transpose(2, 3) * scale
    p = 256 * (scores - scores.amax(-1, keepdim=True)).exp()
    return p.to(torch.float8_e4m3fn).float() @ values / p.sum(-1, keepdim=True)


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor,
    block_index: Tensor, block_offsets: Tensor, scale: float,
) -> Tensor:  # fmt: skip
    """Each block of queries attends to the key blocks of its list and to all reference keys.

    q, k, v [B,H,N,D] sorted by block; block b is rows block_offsets[b] to block_offsets[b+1], at most 128;
    block_index [T,max] int32 lists the blocks seen, -1 where there are fewer -> [B,N,H*D].
    """
    offsets = block_offsets.tolist()
    out = []
    for block, row in enumerate(block_index.tolist()):
        seen = [slice(offsets[other], offsets[other + 1]) for other in row if other >= 0]
        keys = torch.cat([*(k[:, :, rows] for rows in seen), k_reference], 2)
        values = torch.cat([*(v[:, :, rows] for rows in seen), v_reference], 2)
        queries = q[:, :, offsets[block] : offsets[block + 1]]
        out.append(F.scaled_dot_product_attention(queries, keys, values, scale=scale))
    return torch.cat(out, 2).transpose(1, 2).flatten(2)
