"""The tile table: what is in it."""

from __future__ import annotations

from dreamactor.kernels import tiles


def test_entries_are_distinct_and_powers_of_two() -> None:
    for kernel in tiles.kernels():
        for arch in tiles.ARCHITECTURES:
            for size in tiles.sizes(kernel, arch):
                entries = tiles.tiles(kernel, arch, size)
                assert entries
                assert len({tile.name for tile in entries}) == len(entries)
                for tile in entries:
                    assert tile.block_m & (tile.block_m - 1) == 0
                    assert tile.block_n & (tile.block_n - 1) == 0
                    assert not tile.specialized or arch == 90
                    assert (tile.rate is None) == (tile.measured_on is None)
