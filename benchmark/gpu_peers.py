"""How else PyTorch computes the same: SDPA's backends, FlexAttention, torch.compile of the unfused form."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dreamactor.kernels.sliding_tiles import BlockLayout

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


def flex(
    concatenate: Callable[[], tuple[Tensor, Tensor, Tensor]], scale: float, mask: Callable[[], Any] | None = None
) -> Peer:
    """FlexAttention, compiled; `mask` makes its BlockMask, once and outside what is timed."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    blocks = functools.cache(mask) if mask else lambda: None
    return lambda: compiled(*concatenate(), block_mask=blocks(), scale=scale)


def block_mask(layout: BlockLayout, references: int, device: str) -> Any:
    """FlexAttention's BlockMask of what `sparse_attention` sees, tokens in the layout's order, then the references."""
    from torch.nn.attention.flex_attention import create_block_mask

    tokens, tiles = len(layout.order), len(layout.index)
    tile = torch.repeat_interleave(torch.arange(tiles), layout.offsets.diff()).to(device)
    tile = torch.nn.functional.pad(tile, (0, references), value=tiles)  # the references are one more, seen by all
    seen = torch.zeros(tiles, tiles + 1, dtype=torch.bool).scatter_(1, layout.index.long() % (tiles + 1), True)
    seen[:, -1] = True
    seen = seen.to(device)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return seen[tile[query], tile[key]]

    compiled = device == "cuda"  # uncompiled, the whole mask is made, query by key
    return create_block_mask(visible, None, None, tokens, tokens + references, device, _compile=compiled)


def frame_mask(frames: int, per_frame: int, group: int, window: int, device: str) -> Any:
    """FlexAttention's BlockMask of what `face_attention` sees, `group` face tokens a frame."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query // per_frame - key // group).abs() <= window

    compiled = device == "cuda"  # uncompiled, the whole mask is made, query by key
    return create_block_mask(visible, None, None, frames * per_frame, frames * group, device, _compile=compiled)


def unfused(concatenate: Callable[[], tuple[Tensor, Tensor, Tensor]], scale: float) -> Peer:
    """Products and softmax written out, compiled."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2) * scale).softmax(-1) @ v

    compiled = torch.compile(attention, dynamic=False)
    return lambda: compiled(*concatenate())


def compiled(function: Callable[..., Any], *arguments: Any) -> Peer:
    """torch.compile of a plain reference."""
    fused = torch.compile(function, dynamic=False)
    return lambda: fused(*arguments)
