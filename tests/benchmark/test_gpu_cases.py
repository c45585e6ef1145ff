"""The GPU check's cases run small through the interpreter: what passes, what fails, what a device cannot do."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamactor.benchmark import (
    gpu_attention,
    gpu_cases,
    gpu_measure,
    gpu_plan,
    gpu_report,
    gpu_rows,
    gpu_sanitize,
    gpu_warm,
)
from dreamactor.kernels import dispatch, tiles
from dreamactor.kernels.tiles import Tile
from tests.benchmark.gpu_testing import FP8, LATER, SEGMENTS, SMALL, TILES
from tests.kernels.kernel_testing import sm_90


def measured(case: gpu_cases.Case) -> gpu_report.Row:
    entry: gpu_report.Row = {"kernel": case.kernel, "tiles": {}}
    gpu_measure.measure(case, entry, {}, lambda: None, LATER)
    return entry


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("kernel", SMALL)
def test_cases_pass_and_a_wrong_kernel_fails(kernel: str) -> None:
    case = SMALL[kernel]()
    launch, results = case.run, dict[Tile, Any]()

    def right(tile: Tile) -> Any:
        """A copy of the kernel's result; the interpreter takes a second for it."""
        if tile not in results:
            results[tile] = launch(tile)
        found = results[tile]
        return tuple(part.clone() for part in found) if isinstance(found, tuple) else found.clone()

    case.run = right
    entry = measured(case)
    assert gpu_report.passed(entry), entry
    for row in entry["tiles"].values():
        assert row["error"] > 0
        assert "ms" not in row

    def wrong(tile: Tile) -> Any:
        result = right(tile)
        parts = result if isinstance(result, tuple) else (result,)
        parts[-1].mul_(1.1)
        return result

    case.run = wrong
    assert gpu_report.passed(measured(case)) is False

    def incomplete(tile: Tile) -> Any:
        result = right(tile)
        (result[-1] if isinstance(result, tuple) else result).flatten()[-1] = float("nan")
        return result

    case.run = incomplete
    assert gpu_report.passed(measured(case)) is False


@pytest.mark.usefixtures("on_cpu")
def test_keys_whose_mean_is_left_on_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case with an offset common to all keys is there to see it taken off."""
    case = partial(FP8, inputs="offset")()
    monkeypatch.setattr(gpu_attention.fp8, "mean_key", lambda k, _: torch.zeros_like(k[:, :, 0], dtype=torch.float32))
    entry = measured(case)
    assert gpu_report.passed(entry) is False
    assert entry["tiles"]["64x64_w4_s1"]["finite"]


@pytest.mark.usefixtures("on_cpu")
def test_the_sanitizer_gets_a_tile_of_each_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its worker says what ran; a wrong result and nothing to run are told apart from success."""
    other = Tile(32, 16, 4, 1, specialized=True)
    monkeypatch.setitem(TILES, "two_segment", (*TILES["two_segment"], other, Tile(64, 16, 4, 1)))
    launch = gpu_attention.two_segment.launch  # the interpreter does not know Gluon: the plain kernel stands for it
    monkeypatch.setattr(
        gpu_attention.two_segment, "launch", lambda *given: launch(*given[:-1], replace(given[-1], specialized=False))
    )
    small = {"two_segment": [SEGMENTS], "fp8_attention": [FP8]}
    monkeypatch.setattr(gpu_plan, "RAGGED", small)
    assert gpu_sanitize.check("two_segment", LATER) == 0
    ran = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith(gpu_sanitize.RAN)]
    assert sorted(ran) == ["32x16_w4_s1", other.name]
    assert gpu_sanitize.check("two_segment", 0) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    monkeypatch.setattr(dispatch, "capability", lambda device: 86)
    assert gpu_sanitize.check("fp8_attention", LATER) == gpu_sanitize.NOTHING
    monkeypatch.setattr(gpu_attention.two_segment, "launch", lambda q, *_: q.transpose(1, 2).flatten(2))
    assert gpu_sanitize.check("two_segment", LATER) == gpu_sanitize.WRONG
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.usefixtures("on_cpu")
def test_what_a_device_cannot_do_is_skipped_and_what_breaks_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_of(make: gpu_plan.Make) -> gpu_report.Row:
        entry: gpu_report.Row = {"kernel": "norm_rope", "case": "x", "tiles": {}}
        gpu_measure.case_of(make, entry, {}, lambda: None, LATER)
        return entry

    monkeypatch.setattr(dispatch, "capability", lambda device: 86)  # it has the tiles of 8.9, but not its conversions
    for name in ("norm_rope to E4M3", "fp8_attention"):
        assert gpu_report.passed(entry_of(SMALL[name])) is None

    def breaks(error: Exception) -> gpu_cases.Case:
        raise error

    entry = entry_of(partial(breaks, MemoryError("too large")))
    assert gpu_report.passed(entry) is False
    assert "too large" in json.dumps(entry)
    assert "FAILED" in gpu_report.line(entry)
    assert gpu_report.passed(entry_of(partial(breaks, torch.cuda.OutOfMemoryError("2 GiB")))) is None


def test_compiling_ahead_needs_no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every launch of a kernel's cases compiles on the meta device, for an H100 that is not here."""
    monkeypatch.setattr(gpu_cases, "DEVICE", "meta")
    monkeypatch.setattr(dispatch, "architecture", lambda device: 90)
    monkeypatch.setattr(dispatch, "capability", lambda device: 90)
    for plan in (gpu_plan.CHECKED, gpu_plan.RAGGED, gpu_plan.TIMED):
        chosen = [make for make in plan["norm_rope"] if make.func is gpu_rows.norm_rope_fp8]  # type: ignore[attr-defined]
        monkeypatch.setitem(plan, "norm_rope", chosen)
    with sm_90(tmp_path):
        launches = gpu_warm.compile_share(0, 2, ["norm_rope"], LATER)
    assert launches >= 5
    assert len(list(tmp_path.rglob("*.cubin"))) == 3  # with and without an offset and in float16, for all lengths


def test_every_kernel_of_the_table_is_checked_timed_and_sanitised() -> None:
    assert set(gpu_plan.CHECKED) == set(gpu_plan.TIMED) == set(gpu_plan.RAGGED) == set(tiles.kernels())
    cases = [make for plan in (gpu_plan.CHECKED, gpu_plan.TIMED) for makes in plan.values() for make in makes]
    assert len(gpu_plan.names()) == len(cases)
