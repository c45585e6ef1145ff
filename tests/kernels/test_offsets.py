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
