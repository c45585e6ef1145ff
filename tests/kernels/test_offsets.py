"""Offsets beyond 2^31 elements: int32 arithmetic would read and write other memory without a word.

The tensors lie in sparse memory, of which only the rows a kernel touches exist. Strides fit int32, as they do in
practice, and overflow when multiplied.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime import interpreter

from dreamactor.kernels import reference
from dreamactor.kernels.tiles import Tile

Load = Callable[[str], ModuleType]
FAR = 2**31 + 4096  # elements
SIZE = 64
SCALE = 0.125
TILE = Tile(16, 16, 4, 1)
# Shape [B,H,N] and its strides: the last batch, head and row each begin beyond int32.
APART = {"heads": ((3, 3, 5), (2**30 + 2**20, 2**30, SIZE)), "rows": ((1, 1, 50), (SIZE, SIZE, 2**26))}
apart = pytest.mark.parametrize(("shape", "strides"), APART.values(), ids=APART.keys())


@pytest.fixture(autouse=True)
def _int32_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's debug mode, in which an overflow is an error."""
    builder = interpreter.interpreter_builder
    monkeypatch.setattr(builder, "options", dataclasses.replace(builder.options, debug=True))


def sparse_memory(elements: int) -> Tensor:
    file = os.memfd_create("sparse")
    os.ftruncate(file, 2 * elements)
    memory = mmap.mmap(file, 2 * elements)
    os.close(file)
    return torch.frombuffer(memory, dtype=torch.float16)


def views(count: int, shape: Sequence[int], strides: Sequence[int]) -> list[Tensor]:
    """`count` tensors [*shape, SIZE] of random values, side by side."""
    assert max(strides) < 2**31
    step = shape[-1] * SIZE
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    memory = sparse_memory(reach + (count + 1) * step)
    found = [memory.as_strided((*shape, SIZE), (*strides, 1), part * step) for part in range(count)]
    for view in found:
        view.copy_(torch.randn(view.shape))
    return found


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.float(), expected.float(), rtol=0, atol=0)


@apart
def test_attention(interpreted: Load, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    far = views(5, shape, strides)
    near = [view.contiguous() for view in far]
    tokens = shape[2]
    same(*(interpreted("two_segment").launch(*given, SCALE, TILE) for given in (far, near)))
    same(*(interpreted("face").launch(*given[:3], 5, 0, SCALE, TILE) for given in (far, near)))
    ends = [*range(0, tokens, 16), tokens]
    index = torch.tensor([[0, len(ends) - 2]] * (len(ends) - 1), dtype=torch.int32)
    lists = (index, torch.tensor(ends, dtype=torch.int32))
    same(*(interpreted("sparse").launch(*given, *lists, SCALE, TILE) for given in (far, near)))


@apart
def test_norm_rope(interpreted: Load, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    (far,) = views(1, shape[::2], strides[::2])
    angles, weight = torch.randn(shape[2], SIZE // 2), torch.rand(SIZE)
    given = (weight, angles.cos(), angles.sin(), 1, 1e-6, Tile(16, 1, 4, 1))
    same(interpreted("rotary").launch(far, *given), interpreted("rotary").launch(far.contiguous(), *given))


# Blocks of 128 rows, within which int32 does: the third begins beyond.
BLOCKS = {"heads": APART["heads"], "rows": ((1, 1, 260), (SIZE, SIZE, 2**23))}


@pytest.mark.parametrize(("shape", "strides"), BLOCKS.values(), ids=BLOCKS.keys())
def test_quantised_blocks(interpreted: Load, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    (far,) = views(1, shape, strides)
    for transpose in (False, True):
        quantized = (interpreted("fp8").quantize(given, transpose=transpose) for given in (far, far.contiguous()))
        for found, expected in zip(*quantized, strict=True):
            same(found, expected)
    angles = torch.randn(shape[2], SIZE // 2)
    given = (torch.rand(SIZE), angles.cos(), angles.sin(), 1, 1e-6)
    x = far[:, 0]
    rotated = (interpreted("rotary").launch_fp8(rows, *given) for rows in (x, x.contiguous()))
    for found, expected in zip(*rotated, strict=True):
        same(found, expected)


@pytest.fixture
def heads() -> Tensor:
    """[1,2,N,SIZE], the second head beyond int32, each of 16 random rows and then zeros."""
    tokens = FAR // SIZE
    found = sparse_memory(2 * tokens * SIZE).view(1, 2, tokens, SIZE)
    found[:, :, :16] = torch.randn(1, 2, 16, SIZE)
    return found


def test_flash_attention_plugin_heads(interpreted: Load, heads: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first block of each head's queries is launched; its output lies beyond int32 too."""
    module, tokens = interpreted("two_segment"), heads.shape[2]
    k, v = torch.randn(2, 1, 2, 20, SIZE).half().unbind()
    none = k[:, :, :0]
    out = sparse_memory(2 * tokens * SIZE).view(2, tokens, SIZE)
    constants = {"SCALE_LOG2": SCALE * module.LOG2_E, "SIZE": SIZE, "BLOCK_M": 16, "BLOCK_N": 16}
    module.flash_attention_plugin[(1, 2)](heads, k, v, none, none, 1, tokens, 20, 0, out, **constants)
    near = (part[0, :, None].float() for part in (heads[:, :, :16], k, v, none, none))
    expected = reference.two_segment_attention(*near, SCALE)
    torch.testing.assert_close(out[:, :16].float(), expected, rtol=2e-2, atol=2e-3)

    starts = []

    def not_read(q: Any, p_k: Any, p_v: Any, *rest: Any) -> Any:
        starts.extend([p_k.handle.data.item(), p_v.handle.data.item()])
        return rest[3], rest[4] + 1, rest[5]

    monkeypatch.setattr(module, "attend_segment", not_read)  # of keys as many as these are, only where they begin
    module.flash_attention_plugin[(1, 2)](*[heads] * 5, 1, 16, tokens, tokens, out, **constants)
    assert starts == [head.data_ptr() for head in heads[0] for _ in range(4)]


def test_face_attention_plugin_heads(interpreted: Load, heads: Tensor) -> None:
    """Only each head's first frame is launched."""
    module, tokens = interpreted("face"), heads.shape[2]
    out = sparse_memory(2 * tokens * SIZE).view(2, tokens, SIZE)
    module.face_attention_plugin[(1, 1, 2)](
        heads, heads, heads, 1, tokens // 16, 16, 16, out,
        WINDOW=0, SCALE_LOG2=SCALE * module.LOG2_E, SIZE=SIZE, BLOCK_M=16, BLOCK_N=16,
    )  # fmt: skip
    near = heads[0, :, None, :16].float()
    expected = reference.face_attention(near, near, near, 1, 0, SCALE)
    torch.testing.assert_close(out[:, :16].float(), expected, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("transpose", [False, True])
def test_quantising_plugin_heads(interpreted: Load, heads: Tensor, transpose: bool) -> None:
    """Only the first block of each head is launched."""
    tokens, offset = heads.shape[2], torch.zeros(1, 2, SIZE)
    blocks = -(-tokens // 128)
    out = sparse_memory(blocks * 128 * SIZE).view(torch.float8_e4m3fn)
    scale = torch.zeros(1, 2, blocks)
    interpreted("fp8").quantize_plugin[(1, 2)](heads, offset, tokens, out, scale, TRANSPOSE=transpose, SIZE=SIZE)
    expected = interpreted("fp8").quantize(heads[:, :, :128], offset, transpose)
    if transpose:
        same(out.view(1, 2, SIZE, blocks * 128)[..., :128], expected[0])
    else:
        same(out[: 2 * tokens * SIZE].view(1, 2, tokens, SIZE)[:, :, :128], expected[0])
    same(scale[..., :1], expected[1])


def test_norm_rope_heads(interpreted: Load, heads: Tensor) -> None:
    """Only the first block of tokens is launched, and each head of the output lies far from the last."""
    x, weight, angles = torch.randn(1, 8, 2 * SIZE), torch.rand(SIZE), torch.randn(8, SIZE // 2)
    interpreted("rotary").norm_rope_kernel[(1, 1, 1)](
        x, weight, angles.cos(), angles.sin(), heads, 2, heads.shape[2], 0, 2 * SIZE,
        EPS=1e-6, SIZE=SIZE, BLOCK=8, HEADS=2,
    )  # fmt: skip
    expected = reference.norm_rope(x, weight, angles.cos(), angles.sin(), 2)
    torch.testing.assert_close(heads[:, :, :8].float(), expected, rtol=2e-3, atol=2e-3)


def test_fp8_heads_beyond_int32(interpreted: Load) -> None:
    """Only the first block of queries of each of two heads is launched, the second 2^31 elements on."""
    module, tokens, size = interpreted("fp8"), FAR // 128, 128
    small = torch.randn(1, 2, 16, size).half()
    keys = [torch.randn(1, 2, 20, size).half() for _ in range(2)]
    k, v, none = module.quantize(keys[0]), module.quantize(keys[1], transpose=True), module.quantize(small[:, :, :0])
    near, scale = module.quantize(small)
    q = sparse_memory(tokens * size).view(torch.float8_e4m3fn).view(1, 2, tokens, size)
    q[:, :, :16] = near
    scales = torch.zeros(1, 2, -(-tokens // 128))
    scales[:, :, :1] = scale
    out = sparse_memory(2 * tokens * size).view(2, tokens, size)
    module.fp8_attention_kernel[(1, 2)](
        q, k[0], v[0], none[0], none[0], scales, k[1], v[1], none[1], none[1], 1, tokens, 20, 0, out,
        SCALE_LOG2=SCALE * module.LOG2_E, IMPRECISE=None, SIZE=size, BLOCK_M=16, BLOCK_N=16,
    )  # fmt: skip
    tile = Tile(16, 16, 4, 1)
    expected = module.attend((near, scale), k, v, none, none, SCALE, torch.float16, tile).unflatten(-1, (2, size))
    torch.testing.assert_close(out[:, :16], expected[0].transpose(0, 1), rtol=0, atol=0)


def test_modulated_rows_beyond_int32(interpreted: Load) -> None:
    """Rows so long, if not longer than int32, that the fourth begins beyond it; only the first lanes are read."""
    lanes, long = 64, -(-FAR // 3)
    parts = [sparse_memory(2 * FAR) for _ in range(5)]
    heads = [part.as_strided((4, lanes), (long, 1)) for part in parts]
    for head in heads[:3]:
        head.copy_(torch.randn(head.shape))
    x, branch, rows, residual, normed = parts
    interpreted("modulate").modulate_kernel[(1,)](
        x, branch, rows, rows, rows, residual, normed, 4, 1, long, long, long, long,
        EPS=1e-6, GATED=True, BLOCK_M=4, BLOCK_C=lanes,
    )  # fmt: skip
    wide = heads[0].float() + heads[2].float() * heads[1].float()
    centred = wide - wide.sum(1, keepdim=True) / long
    inverse = (centred.square().sum(1, keepdim=True) / long + 1e-6).rsqrt()
    torch.testing.assert_close(heads[3].float(), wide, rtol=1e-3, atol=1e-3)
    expected = centred * inverse * (1 + heads[2].float()) + heads[2].float()
    torch.testing.assert_close(heads[4].float(), expected, rtol=2e-3, atol=2e-3)
