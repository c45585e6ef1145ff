"""What the networks call: the reference, or in an ONNX export the custom node."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamactor.kernels import reference
from dreamactor.kernels.reference import modulate_norm, norm_rope

__all__ = ["face_attention", "modulate_norm", "norm_rope", "two_segment_attention"]


def two_segment_attention(
    q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor, scale: float
) -> Tensor:
    """As `reference.two_segment_attention`; `dreamactor::FlashAttention` in ONNX."""
    if torch.onnx.is_in_onnx_export():
        from dreamactor.kernels import onnx

        return onnx.flash_attention(q, k, v, k_reference, v_reference, scale)
    return reference.two_segment_attention(q, k, v, k_reference, v_reference, scale)


def face_attention(q: Tensor, k: Tensor, v: Tensor, frames: int, window: int, scale: float) -> Tensor:
    """As `reference.face_attention`; `dreamactor::FaceAttention` in ONNX."""
    if torch.onnx.is_in_onnx_export():
        from dreamactor.kernels import onnx

        return onnx.face_attention(q, k, v, frames, window, scale)
    return reference.face_attention(q, k, v, frames, window, scale)
