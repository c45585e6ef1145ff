"""The tile table: what is in it, and how measurements enter it."""

from __future__ import annotations

import json
from typing import Any

from dreamactor.kernels import tiles


def table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tiles.TABLE.read_text())
    return found


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
                    assert not tile.tma or arch == 90
                    assert (tile.rate is None) == (tile.measured_on is None)


def test_plugins_have_a_tile_without_descriptors() -> None:
    for size in tiles.sizes("two_segment", 90):
        assert any(not tile.tma for tile in tiles.tiles("two_segment", 90, size))


def test_measurements_order_the_candidates_of_their_device_alone() -> None:
    names = [tile.name for tile in tiles.tiles("two_segment", 90, 128)]
    rows: dict[str, Any] = {name: {"ms": 1.0, "tflops": 100.0 + i} for i, name in enumerate(names[:-1])}
    rows[names[-1]] = {"passed": False}
    report = {
        "capability": "9.0", "device": "H100", "torch": "2", "triton": "3", "date": "today",
        "kernels": [{"kernel": "two_segment", "size": 128, "tiles": rows}],
    }  # fmt: skip
    before, after = table(), tiles.with_measurements(table(), report)
    listed = [tiles.Tile(**entry) for entry in after["tiles"]["two_segment"]["90"]["128"]]
    assert [tile.name for tile in listed] == [*names[-2::-1], names[-1]]
    assert listed[0].rate == 100.0 + len(names) - 2
    assert "H100" in str(listed[0].measured_on)
    assert listed[-1].rate is None
    after["tiles"]["two_segment"]["90"]["128"] = before["tiles"]["two_segment"]["90"]["128"]
    assert after == before
