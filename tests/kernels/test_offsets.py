"""Offsets beyond 2^31 elements: int32 arithmetic would read and write other memory without a word.

The tensors lie in a sparse file, of which only the rows a kernel touches exist.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from dreamactor.kernels import reference
from dreamactor.kernels.tiles import Tile

Load = Callable[[str], ModuleType]
FAR = 2**31 + 4096  # elements
SIZE = 64
SCALE = 0.125
TILE = Tile(16, 16, 4, 1)


def sparse_memory(folder: Path, name: str, elements: int) -> Tensor:
    path = folder / name
    with path.open("wb") as file:
        file.truncate(2 * elements)
    return torch.from_file(str(path), shared=True, size=elements, dtype=torch.float16)


def test_strides_beyond_int32(interpreted: Load, tmp_path: Path) -> None:
    memory = sparse_memory(tmp_path, "inputs", 2 * FAR)
    tokens = 20
    views = [
        memory.as_strided((2, 1, tokens, SIZE), (FAR, tokens * SIZE, SIZE, 1), part * tokens * SIZE)
        for part in range(5)
    ]
    for view in views:
        view.copy_(torch.randn(view.shape))
    result = interpreted("two_segment").launch(*views, SCALE, TILE)
    near = [view.contiguous() for view in views]
    torch.testing.assert_close(result, interpreted("two_segment").launch(*near, SCALE, TILE), rtol=0, atol=0)
    result = interpreted("face").launch(*views[:3], 2, 0, SCALE, TILE)
    torch.testing.assert_close(result, interpreted("face").launch(*near[:3], 2, 0, SCALE, TILE), rtol=0, atol=0)
    lists = (torch.tensor([[0, 1], [1, -1]], dtype=torch.int32), torch.tensor([0, 12, tokens], dtype=torch.int32))
    result, expected = (interpreted("sparse").launch(*given, *lists, SCALE, TILE) for given in (views, near))
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    for transpose in (False, True):
        result, expected = (interpreted("fp8").quantize(given, transpose=transpose) for given in (views[0], near[0]))
        torch.testing.assert_close(result[0].float(), expected[0].float(), rtol=0, atol=0)
        torch.testing.assert_close(result[1], expected[1], rtol=0, atol=0)


def test_fp8_heads_beyond_int32(interpreted: Load, tmp_path: Path) -> None:
    """Only the first block of queries of each of two heads is launched, the second 2^31 elements on."""
    module, tokens, size = interpreted("fp8"), FAR // 128, 128
    small = torch.randn(1, 2, 16, size).half()
    keys = [torch.randn(1, 2, 20, size).half() for _ in range(2)]
    k, v, none = module.quantize(keys[0]), module.quantize(keys[1], transpose=True), module.quantize(small[:, :, :0])
    near, scale = module.quantize(small)
    q = sparse_memory(tmp_path, "q", tokens * size).view(torch.float8_e4m3fn).view(1, 2, tokens, size)
    q[:, :, :16] = near
    scales = torch.zeros(1, 2, -(-tokens // 128))
    scales[:, :, :1] = scale
    out = sparse_memory(tmp_path, "out", 2 * tokens * size).view(2, tokens, size)
    module.fp8_attention_kernel[(1, 2)](
        q, k[0], v[0], none[0], none[0], scales, k[1], v[1], none[1], none[1], 1, tokens, 20, 0, out,
        SCALE_LOG2=SCALE * module.LOG2_E, IMPRECISE=None, SIZE=size, BLOCK_M=16, BLOCK_N=16,
    )  # fmt: skip
    tile = Tile(16, 16, 4, 1)
    expected = module.attend((near, scale), k, v, none, none, SCALE, torch.float16, tile).unflatten(-1, (2, size))
    torch.testing.assert_close(out[:, :16], expected[0].transpose(0, 1), rtol=0, atol=0)


def test_modulated_rows_beyond_int32(interpreted: Load, tmp_path: Path) -> None:
    """Rows so long, if not longer than int32, that the fourth begins beyond it; only the first lanes are read."""
    lanes, long = 64, -(-FAR // 3)
    parts = [sparse_memory(tmp_path, name, 2 * FAR) for name in ("x", "branch", "rows", "residual", "normed")]
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


def test_keys_far_along_a_long_clip(interpreted: Load, tmp_path: Path) -> None:
    """Rows so far apart that the last key of the first segment lies beyond int32."""
    memory = sparse_memory(tmp_path, "inputs", 2 * FAR)
    keys, row = 33, FAR // 32 // 16 * 16
    k, v = (memory.as_strided((1, 1, keys, SIZE), (1, 1, row, 1), SIZE * part) for part in range(2))
    assert (keys - 1) * row + SIZE > 2**31 - 1
    k.copy_(torch.randn(k.shape))
    v.copy_(torch.randn(v.shape))
    q = torch.randn(1, 1, 16, SIZE).half()
    result = interpreted("two_segment").launch(q, k, v, k[:, :, :0], v[:, :, :0], SCALE, TILE)
    near = (q, k.contiguous(), v.contiguous())
    expected = interpreted("two_segment").launch(*near, k[:, :, :0], v[:, :, :0], SCALE, TILE)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_blocks_far_along_a_long_clip(interpreted: Load, tmp_path: Path) -> None:
    """Rows so far apart that the last listed block, and the second block that is quantised, begin beyond int32."""
    keys, row = 33, FAR // 20 // 16 * 16
    memory = sparse_memory(tmp_path, "inputs", keys * row)
    k, v = (memory.as_strided((1, 1, keys, SIZE), (1, 1, row, 1), SIZE * part) for part in range(2))
    k.copy_(torch.randn(k.shape))
    v.copy_(torch.randn(v.shape))
    lists = (torch.tensor([[2], [1], [0]], dtype=torch.int32), torch.tensor([0, 11, 22, keys], dtype=torch.int32))
    given = (k.contiguous(), k, v, k[:, :, :0], v[:, :, :0])
    near = (given[0], *(part.contiguous() for part in given[1:]))
    found, expected = (interpreted("sparse").launch(*tensors, *lists, SCALE, TILE) for tensors in (given, near))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)

    tokens, row = 140, FAR // 128 // 16 * 16 - 1024
    x = sparse_memory(tmp_path, "x", tokens * row).as_strided((1, 1, tokens, SIZE), (1, 1, row, 1))
    assert 128 * row < 2**31 < 139 * row  # within a block int32 does
    x.copy_(torch.randn(x.shape))
    quantized = [interpreted("fp8").quantize(tensor) for tensor in (x, x.contiguous())]
    torch.testing.assert_close(quantized[0][0].float(), quantized[1][0].float(), rtol=0, atol=0)
    torch.testing.assert_close(quantized[0][1], quantized[1][1], rtol=0, atol=0)


def test_plugin_outputs_beyond_int32(interpreted: Load, tmp_path: Path) -> None:
    """Only the first block of queries of each of two heads is launched, the second 2^31 elements on."""
    tokens = FAR // SIZE
    q = sparse_memory(tmp_path, "q", 2 * tokens * SIZE).view(1, 2, tokens, SIZE)
    out = sparse_memory(tmp_path, "out", 2 * tokens * SIZE).view(2, tokens, SIZE)
    q[:, :, :16] = torch.randn(1, 2, 16, SIZE)
    k, v = torch.randn(2, 1, 2, 20, SIZE).half().unbind()
    none = k[:, :, :0]
    module = interpreted("two_segment")
    module.flash_attention_plugin[(1, 2)](
        q, k, v, none, none, 1, tokens, 20, 0, out,
        SCALE_LOG2=SCALE * module.LOG2_E, SIZE=SIZE, BLOCK_M=16, BLOCK_N=16, PAIR=False,
    )  # fmt: skip
    expected = reference.two_segment_attention(q[0, :, None, :16].float(), k[0, :, None].float(), v[0, :, None].float(),
                                               none[0, :, None].float(), none[0, :, None].float(), SCALE)  # fmt: skip
    torch.testing.assert_close(out[:, :16].float(), expected, rtol=2e-2, atol=2e-3)


def test_rows_beyond_int32(interpreted: Load, tmp_path: Path) -> None:
    """Norm + rotary over a batch stride, and the modulated rows' own offsets, which are int64 by construction."""
    memory = sparse_memory(tmp_path, "x", 2 * FAR)
    x = memory.as_strided((2, 5, SIZE), (FAR, SIZE, 1))
    x.copy_(torch.randn(x.shape))
    angles, weight = torch.randn(5, SIZE // 2), torch.ones(SIZE)
    result = interpreted("rotary").launch(x, weight, angles.cos(), angles.sin(), 1, 1e-6, Tile(8, 1, 4, 1))
    expected = reference.norm_rope(x.contiguous(), weight, angles.cos(), angles.sin(), 1)
    torch.testing.assert_close(result, expected, rtol=2e-3, atol=2e-3)
