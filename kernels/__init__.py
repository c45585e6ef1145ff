"""Fused kernels for the long video token sequences, each with a plain reference beside it."""

from dreamactor.kernels.operators import (
    face_attention,
    fp8_attention,
    modulate_norm,
    norm_rope,
    norm_rope_fp8,
    sparse_attention,
    two_segment_attention,
)

__all__ = [
    "face_attention",
    "fp8_attention",
    "modulate_norm",
    "norm_rope",
    "norm_rope_fp8",
    "sparse_attention",
    "two_segment_attention",
]
