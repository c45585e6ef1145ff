"""Shapes that a kernel relies on and cannot look at: where they do not fit it would read other memory."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamactor.errors import InputError


def segments(q: Tensor, k: Tensor, v: Tensor, k_reference: Tensor, v_reference: Tensor) -> None:
    """Raises InputError unless all are [B,H,*,D] of q's B, H and D, and values are as many as their keys."""
    for name, keys, values in (("k", k, v), ("k_reference", k_reference, v_reference)):
        _heads(name, q, keys)
        _same(f"the values of {name}", values, tuple(keys.shape))


def face(q: Tensor, k: Tensor, v: Tensor, frames: int) -> None:
    """Raises InputError unless k and v fit q and the tokens of both divide into `frames`."""
    _heads("k", q, k)
    _same("v", v, tuple(k.shape))
    for name, tensor in (("q", q), ("k", k)):
        _frames(name, tensor.shape[2], frames)


def rope(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, num_heads: int, offset: Tensor | None = None) -> None:
    """Raises InputError unless x is [B,N,H*D], weight [D], cos and sin [N,D/2], offset [B,H,D]."""
    if x.ndim != 3 or num_heads < 1 or x.shape[2] % (2 * num_heads):
        raise InputError(f"x is {_shape(x)}; expected [B, N, H*D] with {num_heads} heads of an even size.")
    size = x.shape[2] // num_heads
    _same("weight", weight, (size,))
    _same("cos", cos, (x.shape[1], size // 2))
    _same("sin", sin, (x.shape[1], size // 2))
    if offset is not None:
        _same("offset", offset, (x.shape[0], num_heads, size))


def modulation(x: Tensor, shift: Tensor, *rows: Tensor, branch: Tensor | None = None) -> None:
    """Raises InputError unless x is [B,F*P,C], branch too, and shift and `rows` are [B,F,C]."""
    if x.ndim != 3 or shift.ndim != 3:
        raise InputError(f"x is {_shape(x)} and shift {_shape(shift)}; expected [B, F*P, C] and [B, F, C].")
    for tensor in (shift, *rows):
        _same("a row of the modulation", tensor, (x.shape[0], shift.shape[1], x.shape[2]))
    if branch is not None:
        _same("branch", branch, tuple(x.shape))
    _frames("x", x.shape[1], shift.shape[1])


def lists(q: Tensor, k: Tensor, block_index: Tensor, block_offsets: Tensor) -> None:
    """Raises InputError unless there is a key for each query, index is [T,max] and offsets [T+1], int32."""
    _same("k", k, tuple(q.shape))
    if block_index.ndim != 2 or tuple(block_offsets.shape) != (block_index.shape[0] + 1,):
        raise InputError(
            f"block_index is {_shape(block_index)} and block_offsets {_shape(block_offsets)}; expected [T, most] and "
            "[T+1], as sliding_tiles makes them."
        )
    if {block_index.dtype, block_offsets.dtype} != {torch.int32}:
        raise InputError(f"block_index is {block_index.dtype}, block_offsets {block_offsets.dtype}; expected int32.")


def _heads(name: str, q: Tensor, tensor: Tensor) -> None:
    if q.ndim != 4 or tensor.ndim != 4:
        raise InputError(f"q is {_shape(q)} and {name} {_shape(tensor)}; expected [B, H, N, D].")
    _same(name, tensor, (*q.shape[:2], tensor.shape[2], q.shape[3]))


def _frames(name: str, tokens: int, frames: int) -> None:
    if frames < 1 or tokens % frames:
        raise InputError(f"The {tokens} tokens of {name} do not divide into {frames} latent frames.")


def _same(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise InputError(f"{name} is {_shape(tensor)}; expected {list(expected)}.")


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
