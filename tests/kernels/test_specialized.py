"""The kernels in Gluon as PyTorch launches them: what is compiled fits what is passed, whichever segment is empty.

Their numbers are a GPU's to check (`gpu_kernels`): the interpreter does not know Gluon. `test_aot` sees the machine
code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

from dreamactor.kernels import fp8, sparse, tiles, two_segment
from dreamactor.kernels.rings import describe_segments
from dreamactor.kernels.sliding_tiles import sliding_tiles
from dreamactor.kernels.tiles import Tile
from tests.kernels.kernel_testing import sm_90

Launches = list[tuple[str, tuple[int, ...]]]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launches]:
    """Every launch is compiled for an H100 and noted, with its grid, in place of being run."""
    noted: Launches = []
    run = triton.runtime.JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        noted.append((self.__name__, grid))
        return run(self, *arguments, grid=grid, warmup=True, **options)

    monkeypatch.setattr(triton.runtime.JITFunction, "run", compile_only)
    with sm_90(tmp_path_factory.getbasetemp() / "specialized"):
        yield noted


def tensor(tokens: int, size: int = 64) -> Tensor:
    return torch.empty(2, 3, tokens, size, dtype=torch.bfloat16, device="meta")


def specialized(kernel: str, size: int = 64) -> Tile:
    return next(tile for tile in tiles.tiles(kernel, 90, size) if tile.specialized)


@pytest.mark.parametrize(("keys", "references"), [(301, 45), (0, 45), (301, 0)])
def test_two_segments(launches: Launches, keys: int, references: int) -> None:
    tensors = (tensor(301), tensor(keys), tensor(keys), tensor(references), tensor(references))
    out = two_segment.launch(*tensors, 0.1, specialized("two_segment"))
    assert out.shape == (2, 301, 192)
    assert launches == [("specialized_kernel", (3, 6))]


def test_fp8(launches: Launches) -> None:
    tensors = (tensor(301, 128), tensor(301, 128), tensor(301, 128), tensor(0, 128), tensor(0, 128))
    assert fp8.launch(*tensors, 0.1, specialized("fp8_attention", 128)).shape == (2, 301, 384)
    assert launches[-1] == ("specialized_fp8_kernel", (3, 6))


def test_lists(launches: Launches) -> None:
    layout = sliding_tiles((5, 11, 13))
    tokens = len(layout.order)
    tensors = (tensor(tokens), tensor(tokens), tensor(tokens), tensor(45), tensor(45))
    lists = (layout.index.to("meta"), layout.offsets.to("meta"))
    assert sparse.launch(*tensors, *lists, 0.1, specialized("sparse_attention")).shape == (2, tokens, 192)
    assert launches == [("specialized_sparse_kernel", (len(layout.index), 6))]


def test_an_empty_segment_is_described_by_the_other() -> None:
    """A descriptor of nothing cannot be made."""
    q, k, v = (torch.empty(1, 1, 64, 128, dtype=torch.bfloat16) for _ in range(3))
    nothing = torch.empty(1, 1, 0, 128, dtype=torch.bfloat16)
    block = [1, 1, 128, 128]
    for first, second in (((k, v), (nothing, nothing)), ((nothing, nothing), (k, v))):
        described = describe_segments(q, first, second, block, block)
        assert [each.base.data_ptr() for each in described] == [x.data_ptr() for x in (q, k, v, k, v)]
        assert described[0].block_shape == [1, 1, 64, 128]
