"""Plain PyTorch forms of every kernel: what they compute, what runs where no kernel can, what the tests compare with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def two_segment_attention(q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor, scale: float) -> Tensor:
    """Attention of q over the keys of two buffers, as if concatenated.

    q [B,H,M,D]; k, v [B,H,N,D]; k_reference, v_reference [B,H,R,D], N or R may be 0 -> [B,M,H*D].
    """
    k, v = torch.cat([k, k_reference], 2), torch.cat([v, v_reference], 2)
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return out.transpose(1, 2).flatten(2)


def norm_rope(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, eps: float = 1e-6) -> Tensor:
    """RMSNorm of each head, half-split rotary positions, head-major layout.

    x [B,N,H*D]; weight [D]; cos, sin [N,D/2] -> [B,H,N,D].
    """
    heads = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    normed = F.rms_norm(heads.float(), (heads.shape[-1],), weight.float(), eps)
    first, second = normed.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


def face_attention(q: Tensor, k: Tensor, v: Tensor, frames: int, window: int, scale: float) -> Tensor:
    """Attention of each latent frame's tokens over the face tokens of the frames at most `window` away.

    q [B,H,F*P,D]; k, v [B,H,F*G,D] -> [B,F*P,H*D].
    """
    query_frame = torch.arange(frames, device=q.device).repeat_interleave(q.shape[2] // frames)
    key_frame = torch.arange(frames, device=q.device).repeat_interleave(k.shape[2] // frames)
    visible = (query_frame[:, None] - key_frame[None, :]).abs() <= window
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale)
    return out.transpose(1, 2).flatten(2)


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
    normed = F.layer_norm(x.float(), (x.shape[-1],), eps=eps).to(x.dtype) * (1 + scale[:, :, None]) + shift[:, :, None]
    return x.flatten(1, 2), normed.flatten(1, 2)
