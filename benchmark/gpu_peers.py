"""What else PyTorch can do the same with: SDPA's backends, FlexAttention, torch.compile of the unfused form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
Peer = Callable[[], Any]


def sdpa(backend: str, concatenate: Callable[[], tuple[Tensor, Tensor, Tensor]], scale: float, **options: Any) -> Peer:
    """SDPA on one backend; `concatenate` gives q, k, v and is part of what is timed."""

    def run() -> Tensor:
        with sdpa_kernel(BACKENDS[backend]):
            return F.scaled_dot_product_attention(*concatenate(), scale=scale, **options)

    return run


def flex(concatenate: Callable[[], tuple[Tensor, Tensor, Tensor]], scale: float, mask: Any = None) -> Peer:
    """FlexAttention, compiled; `mask` a BlockMask or None."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention)
    return lambda: compiled(*concatenate(), block_mask=mask, scale=scale)


def unfused(concatenate: Callable[[], tuple[Tensor, Tensor, Tensor]], scale: float, mask: Tensor | None = None) -> Peer:
    """Products and softmax written out, compiled."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) * scale
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1) @ v

    compiled = torch.compile(attention)
    return lambda: compiled(*concatenate())


def compiled(function: Callable[..., Any], *arguments: Any) -> Peer:
    """torch.compile of a plain reference."""
    fused = torch.compile(function)
    return lambda: fused(*arguments)
