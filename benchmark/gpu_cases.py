"""A case of the GPU check: one kernel at one shape, how it is checked, and the numbers it is given.

A check compares a sample of rows with float64 and allows the kernel twice the error of PyTorch's own attention in the
same precision. Outputs start as NaN, inputs are fresh random numbers; `make_unusual` makes them what a network gives
now and then. `gpu_attention` and `gpu_rows` have the kernels, `gpu_plan` the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamactor.benchmark import gpu_peers
from dreamactor.kernels import dispatch, tiles
from dreamactor.kernels.tiles import Tile

Result = Tensor | tuple[Tensor, ...]
DEVICE = "cuda"  # where the tensors lie
GPU = torch.device("cuda", 0)  # whose tiles are run
SAMPLE = 192  # rows compared with float64


@dataclass
class Case:
    """One kernel at one shape.

    `run` takes a tile; `exact` and `same` give the sampled rows in float64 and by PyTorch in the same precision,
    `sample` picks those rows from the kernel's result. `work` is FLOP (attention) or bytes (the rest). `variant` names
    another kernel of the same table. Runs from compute capability `since` on; where it is not `tuned` the tile makes
    no difference, and one is run. With `goal` it must also meet the FP8 kernel's goal.
    """

    kernel: str
    label: str
    size: int
    run: Callable[[Tile], Result]
    sample: Callable[[Result], Tensor]
    exact: Callable[[], Tensor]
    same: Callable[[], Tensor]
    work: float
    unit: str = "tflops"
    peers: dict[str, gpu_peers.Peer] = field(default_factory=dict)
    absolute: float = 2e-4
    timed: bool = True
    tuned: bool = True
    goal: bool = False
    since: int = 80
    variant: str = ""

    def table_size(self) -> int:
        """The tile table's size for this case: the head size, or the class of channels."""
        known = tiles.sizes(self.kernel, dispatch.architecture(GPU))
        return self.size if self.kernel != "modulate_norm" else min((n for n in known if n >= self.size), default=0)

    def candidates(self) -> tuple[Tile, ...]:
        """The tiles of this device's table; none where the device itself is older than `since`."""
        if dispatch.capability(GPU) < self.since:
            return ()
        found = tiles.tiles(self.kernel, dispatch.architecture(GPU), self.table_size())
        return found if self.tuned else found[:1]


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=dtype)


def sampled_rows(tokens: int) -> Tensor:
    """Which rows are compared: the first, the last, and random ones."""
    chosen = torch.randint(0, tokens, (SAMPLE - 2,))
    rows: Tensor = torch.cat([torch.tensor([0, tokens - 1]), chosen]).unique()
    return rows.to(DEVICE)


def label(shape: str, batch: int, dtype: torch.dtype, inputs: str, width: int = 0) -> str:
    """A case's shape, with what is unusual about it."""
    unusual = ("" if dtype == torch.bfloat16 else str(dtype)[6:], inputs, f"rows {width} apart" if width else "")
    return ", ".join((f"{batch}x{shape}" if batch > 1 else shape, *filter(None, unusual)))


def chunk(batch: int, tokens: int, channels: int, width: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """[B,N,channels]: the last of `width` columns of a fused projection (0: three times as many)."""
    return normal(batch, tokens, width or 3 * channels, dtype=dtype)[..., -channels:]


def make_unusual(inputs: str, q: Tensor, keys: Sequence[Tensor] = (), values: Sequence[Tensor] = ()) -> None:
    """Changes the tensors [...,N,D]. "outliers": a row of each a thousand times as large; "large": beyond E4M3's 448,
    the values near bf16's end; "offset": a vector common to all keys, which a softmax does not see but E4M3 would.
    """
    match inputs:
        case "":
            pass
        case "outliers":
            for tensor in (q, *keys):
                tensor[..., -1:, :] *= 1e3
            for tensor in values:
                tensor[..., :1, :] *= 1e3
        case "large":
            q *= 1e4
            for tensor in keys:
                tensor *= 1e-4
            for tensor in values:
                tensor *= 2.0**100
        case "offset":
            offset = 30 * normal(*q.shape[:2], 1, q.shape[3], dtype=q.dtype)
            for tensor in keys:
                tensor += offset
        case _:
            raise ValueError(f"inputs are '{inputs}'; expected 'outliers', 'large', 'offset' or nothing.")
