"""Which blocks of tokens see each other when attention is kept to a window of 3D tiles (after Sliding Tile Attention).

Tokens are sorted by tile, so that a tile is a run of rows and a block of the sparse kernel; tiles at the grid's far
edges are smaller, and nothing is padded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 128  # the most tokens a tile may hold


@dataclass(frozen=True)
class BlockLayout:
    """`order` [N] lists the tokens tile by tile (x[:, order] sorts, `inverse` restores); `index` [T,max] int32 holds
    the tiles that each tile sees, padded with -1; `offsets` [T+1] int32 are the tiles' first rows."""

    order: Tensor
    inverse: Tensor
    index: Tensor
    offsets: Tensor

    @property
    def density(self) -> float:
        """Share of the dense attention's products that is computed."""
        lengths = self.offsets.diff().double()
        seen = torch.where(self.index >= 0, lengths[self.index.clamp(min=0)], 0.0).sum(1)
        return float((seen * lengths).sum() / lengths.sum() ** 2)


def sliding_tiles(
    grid: tuple[int, int, int], tile: tuple[int, int, int] = (4, 8, 4), window: tuple[int, int, int] = (3, 3, 3)
) -> BlockLayout:
    """Layout for a latent of `grid` (frames, rows, columns) tokens: each tile sees the `window` tiles around it.

    Windows are odd counts of tiles; at the grid's edge the window is shifted inwards, so every tile sees as many.
    Raises ValueError where a tile holds more than 128 tokens or a window is even.
    """
    if tile[0] * tile[1] * tile[2] > BLOCK:
        raise ValueError(f"A tile of {tile} holds more than {BLOCK} tokens; make it smaller.")
    if any(size % 2 == 0 for size in window):
        raise ValueError(f"Window {window} has an even side; use odd counts of tiles.")
    counts = [-(-length // side) for length, side in zip(grid, tile, strict=True)]
    axes = [torch.arange(length) // side for length, side in zip(grid, tile, strict=True)]
    tile_of = (axes[0][:, None, None] * counts[1] + axes[1][:, None]) * counts[2] + axes[2]
    order = tile_of.flatten().argsort(stable=True)
    lengths = torch.bincount(tile_of.flatten(), minlength=counts[0] * counts[1] * counts[2])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int()
    seen = []
    for count, width in zip(counts, window, strict=True):
        first = (torch.arange(count) - width // 2).clamp(0, max(count - width, 0))
        seen.append(first[:, None] + torch.arange(min(width, count)))  # [count, width]
    index = (seen[0][:, None, None, :, None, None] * counts[1] + seen[1][:, None, None, :, None]) * counts[2]
    index = index + seen[2][:, None, None, :]
    return BlockLayout(order, order.argsort(), index.flatten(3).flatten(0, 2).int(), offsets)
