"""How a report of the GPU check enters the tile table, and what of it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dreamactor.benchmark import gpu_tiles
from dreamactor.kernels import static, tiles


def table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tiles.TABLE.read_text())
    return found


def unmeasured() -> dict[str, Any]:
    """The table as it was before any GPU."""
    found = table()
    entries = [
        e for by_arch in found["tiles"].values() for lists in by_arch.values() for es in lists.values() for e in es
    ]
    for entry in entries:
        entry.pop("rate", None)
        entry.pop("measured_on", None)
    return found


def report_of(*entries: dict[str, Any]) -> dict[str, Any]:
    known = {"capability": "9.0", "device": "H100", "torch": "2", "triton": "3", "date": "today"}
    return {**known, "kernels": list(entries)}


def test_measurements_order_the_candidates_of_their_device_alone() -> None:
    names = [tile.name for tile in tiles.tiles("two_segment", 90, 128)]
    rows: dict[str, Any] = {name: {"ms": 1.0, "tflops": 100.0 + i} for i, name in enumerate(names[:-1])}
    rows[names[-1]] = {"passed": None}
    report = report_of({"kernel": "two_segment", "size": 128, "tiles": rows})
    before, after = unmeasured(), gpu_tiles.with_measurements(unmeasured(), report)
    listed = [tiles.Tile(**entry) for entry in after["tiles"]["two_segment"]["90"]["128"]]
    assert [tile.name for tile in listed] == [*names[-2::-1], names[-1]]
    assert listed[0].rate == 100.0 + len(names) - 2
    assert "H100" in str(listed[0].measured_on)
    assert listed[-1].rate is None
    after["tiles"]["two_segment"]["90"]["128"] = before["tiles"]["two_segment"]["90"]["128"]
    assert after == before


def test_rates_are_of_one_case_on_one_card() -> None:
    """A run that is cut off has timed some tiles at a larger case; an earlier card's rates are not set beside these."""
    tiles_of = [tile.name for tile in tiles.tiles("two_segment", 90, 128)]
    small = {name: {"ms": 1.0, "tflops": 100.0 + i} for i, name in enumerate(tiles_of)}
    cut = report_of(
        {"kernel": "two_segment", "size": 128, "tiles": small},
        {"kernel": "two_segment", "size": 128, "tiles": {tiles_of[0]: {"ms": 1.0, "tflops": 900.0}}},
    )
    after = gpu_tiles.with_measurements(table(), cut)["tiles"]["two_segment"]["90"]["128"]
    assert [tiles.Tile(**entry).name for entry in after] == tiles_of[::-1]
    assert {entry["measured_on"] for entry in after} == {"H100, triton 3, today"}
    few = report_of({"kernel": "two_segment", "size": 128, "tiles": dict(list(small.items())[:1])})
    after = gpu_tiles.with_measurements(table(), few)["tiles"]["two_segment"]["90"]["128"]
    assert [entry.get("rate") for entry in after] == [100.0, *[None] * (len(after) - 1)]


def test_a_tile_proven_wrong_is_taken_out() -> None:
    """Wherever it failed, however fast it was elsewhere; a size with none left is no longer offered."""
    names = [tile.name for tile in tiles.tiles("two_segment", 90, 128)]
    only = [tile.name for tile in tiles.tiles("face_attention", 90, 64)]
    report = report_of(
        {"kernel": "two_segment", "size": 128, "case": "small", "tiles": {names[0]: {"passed": False}}},
        {"kernel": "two_segment", "size": 128, "tiles": {names[0]: {"ms": 1.0, "tflops": 900.0, "passed": True}}},
        {"kernel": "face_attention", "size": 64, "tiles": {name: {"passed": False} for name in only}},
        {"kernel": "norm_rope", "size": None, "tiles": {"64x2_w4_s1": {"passed": False}}},
    )
    before, after = table()["tiles"], gpu_tiles.with_measurements(table(), report)["tiles"]
    assert [tiles.Tile(**entry).name for entry in after["two_segment"]["90"]["128"]] == names[1:]
    assert "64" not in after["face_attention"]["90"]
    assert after["two_segment"]["80"] == before["two_segment"]["80"]
    assert after["norm_rope"] == before["norm_rope"]


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command's two files as copies, read anew inside and afterwards."""
    for module in (tiles, static):
        copy = tmp_path / module.TABLE.name
        copy.write_text(module.TABLE.read_text())
        monkeypatch.setattr(module, "TABLE", copy)
    _forget()
    yield
    _forget()


def _forget() -> None:
    tiles._table.cache_clear()
    tiles.tiles.cache_clear()


@pytest.mark.usefixtures("copied")
def test_the_command_keeps_table_and_figures_together(tmp_path: Path) -> None:
    first = tiles.tiles("two_segment", 90, 128)[0]
    path = tmp_path / "report.json"
    path.write_text(
        json.dumps(report_of({"kernel": "two_segment", "size": 128, "tiles": {first.name: {"passed": False}}}))
    )
    _forget()
    gpu_tiles.main(path)
    assert static.key("two_segment", 90, 128, first) not in static.load()
    assert set(static.load()) == {static.key(*entry) for entry in static.entries()}


@pytest.mark.usefixtures("copied")
def test_nothing_is_taken_of_a_kernel_that_failed(tmp_path: Path) -> None:
    before = tiles.TABLE.read_text()
    rows = {tile.name: {"passed": True, "ms": 1.0, "tflops": 100.0} for tile in tiles.tiles("two_segment", 90, 128)}
    report = report_of({"kernel": "two_segment", "case": "x", "size": 128, "tiles": rows})
    failed = {"compiled_and_graphs": [{"kernel": "two_segment", "variant": "", "passed": False}]}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report | failed))
    gpu_tiles.main(path)
    assert json.loads(tiles.TABLE.read_text()) == json.loads(before)
    path.write_text(json.dumps(report))
    gpu_tiles.main(path)
    assert "H100, triton 3" in tiles.TABLE.read_text()
