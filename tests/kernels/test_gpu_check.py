"""The GPU check's own logic, its cases run small through the interpreter: what passes, what fails, what is withheld."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from dreamactor.benchmark import (
    gpu_cases,
    gpu_graphs,
    gpu_kernels,
    gpu_measure,
    gpu_plan,
    gpu_plot,
    gpu_report,
    gpu_sanitize,
    gpu_timing,
    gpu_warm,
)
from dreamactor.kernels import dispatch, static, tiles
from dreamactor.kernels.tiles import Tile
from tests.kernels.kernel_testing import sm_90

Load = Callable[[str], ModuleType]
ROOT = Path(__file__).resolve().parents[2]
TILES = {
    "norm_rope": (Tile(8, 2, 4, 1), Tile(16, 1, 4, 1)), "modulate_norm": (Tile(4, 0, 4, 1),),
    "fp8_attention": (Tile(64, 64, 4, 1),), "face_attention": (Tile(16, 0, 4, 1),),
    "two_segment": (Tile(32, 16, 4, 1),), "sparse_attention": (Tile(128, 64, 4, 1),),
}  # fmt: skip
SEGMENTS = partial(gpu_cases.attention, 70, 9, 2, 64, torch.bfloat16, timed=False)
FP8 = partial(gpu_cases.fp8_attention, 70, 20, 2, timed=False)
ROPE = partial(gpu_cases.norm_rope, 11, 3, 64, timed=False)
ROPE_FP8 = partial(gpu_cases.norm_rope_fp8, 150, 2, 64, timed=False)
FACE = partial(gpu_cases.face_attention, 3, 19, 3, 64, timed=False)
SPARSE = partial(gpu_cases.sparse_attention, (3, 5, 6), 2, 64, timed=False)
MODULATE = partial(gpu_cases.modulate_norm, 3, 7, 96, timed=False)
SMALL: dict[str, gpu_plan.Make] = {
    "two_segment": partial(gpu_cases.attention, 70, 9, 2, 64, torch.float16, timed=False, batch=2, width=400),
    "fp8_attention": partial(gpu_cases.fp8_attention, 130, 20, 2, timed=False, batch=2),
    "norm_rope": partial(gpu_cases.norm_rope, 11, 3, 64, timed=False, batch=2),
    "norm_rope to E4M3": partial(gpu_cases.norm_rope_fp8, 150, 2, 64, timed=False, batch=2, shifted=True),
    "face_attention": partial(gpu_cases.face_attention, 3, 19, 3, 64, timed=False, batch=2),
    "sparse_attention": partial(gpu_cases.sparse_attention, (3, 5, 6), 2, 64, timed=False, batch=2),
    "modulate_norm": partial(gpu_cases.modulate_norm, 3, 7, 96, timed=False, batch=2),
    "modulate_norm ungated": partial(gpu_cases.modulate_norm, 3, 7, 96, timed=False, gated=False),
    "two_segment on references": partial(SEGMENTS, keys=0),
    "fp8_attention on references": partial(FP8, keys=0),
    "fp8_attention of one token": partial(gpu_cases.fp8_attention, 1, 7, 2, timed=False),
    "fp8_attention far": partial(FP8, width=400),
    "face_attention far": partial(FACE, width=400),
    "sparse_attention far": partial(SPARSE, width=400),
    **{
        f"{name} {inputs}": partial(make, inputs=inputs)
        for name, make in (("two_segment", SEGMENTS), ("fp8_attention", FP8), ("face", FACE), ("sparse", SPARSE))
        for inputs in ("outliers", "large", "offset")
    },
    **{
        f"{name} {inputs}": partial(make, inputs=inputs)
        for name, make in (("norm_rope", ROPE), ("norm_rope to E4M3", ROPE_FP8), ("modulate_norm", MODULATE))
        for inputs in ("outliers", "large")
    },
    **{
        f"{name} float16": partial(make, dtype=torch.float16)
        for name, make in (
            ("fp8_attention", FP8), ("face", FACE), ("sparse", SPARSE), ("norm_rope", ROPE),
            ("norm_rope to E4M3", ROPE_FP8), ("modulate_norm", MODULATE),
        )
    },
}  # fmt: skip
LATER = 1e12


@pytest.fixture
def on_cpu(interpreted: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases on the CPU: interpreted kernels, this table's tiles instead of a device's."""
    names = ("face", "fp8", "modulate", "rotary", "sparse", "two_segment")
    for name in names:
        monkeypatch.setattr(gpu_cases, name, interpreted(name))
    monkeypatch.setattr(gpu_cases, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_cases, "REFERENCE_TOKENS", 33)
    monkeypatch.setattr(dispatch, "architecture", lambda device: 90)
    monkeypatch.setattr(dispatch, "capability", lambda device: 90)
    monkeypatch.setattr(tiles, "tiles", lambda kernel, arch, size: TILES[kernel])


def measured(case: gpu_cases.Case) -> gpu_report.Row:
    entry: gpu_report.Row = {"kernel": case.kernel, "tiles": {}}
    gpu_measure.measure(case, entry, {}, lambda: None, LATER)
    return entry


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("kernel", SMALL)
def test_cases_pass_and_a_wrong_kernel_fails(kernel: str) -> None:
    case = SMALL[kernel]()
    entry = measured(case)
    assert gpu_report.passed(entry), entry
    for row in entry["tiles"].values():
        assert row["error"] > 0
        assert "ms" not in row

    right = case.run

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
    monkeypatch.setattr(gpu_cases.fp8, "mean_key", lambda k, _: torch.zeros_like(k[:, :, 0], dtype=torch.float32))
    assert gpu_report.passed(measured(case)) is False
    assert measured(case)["tiles"]["64x64_w4_s1"]["finite"]


@pytest.mark.usefixtures("on_cpu")
def test_the_sanitizer_gets_a_tile_of_each_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its worker says what ran; a wrong result and nothing to run are told apart from success."""
    other = Tile(32, 16, 4, 1, specialized=True)
    monkeypatch.setitem(TILES, "two_segment", (*TILES["two_segment"], other, Tile(64, 16, 4, 1)))
    launch = gpu_cases.two_segment.launch  # the interpreter does not know Gluon: the plain kernel stands for it
    monkeypatch.setattr(
        gpu_cases.two_segment, "launch", lambda *given: launch(*given[:-1], replace(given[-1], specialized=False))
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
    monkeypatch.setattr(gpu_cases.two_segment, "launch", lambda q, *_: q.transpose(1, 2).flatten(2))
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


class Forked:
    """A worker as a fork of this process, so that what a test has substituted is substituted there too."""

    def __init__(self, part: str, seconds: float, options: Namespace) -> None:
        chosen = Namespace(**{**vars(options), "part": part, "seconds": seconds})
        self.process = multiprocessing.get_context("fork").Process(target=self._work, args=(chosen,))
        self.process.start()

    @staticmethod
    def _work(options: Namespace) -> None:
        torch.set_num_threads(1)  # the parent's threads are not here
        sys.exit(gpu_kernels.worker(options))

    def wait(self, seconds: float | None = None) -> int:
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("worker", seconds or 0)
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()


def hung(tile: Tile) -> Any:
    time.sleep(60)


def deadly(tile: Tile) -> Any:
    os._exit(77)


def spoilt(name: str, tile: str, act: Callable[[Tile], Any]) -> gpu_plan.Make:
    """The small case `name`, whose `tile` does something else."""

    def make(**_: Any) -> gpu_cases.Case:
        case = SMALL[name]()
        right = case.run
        case.run = lambda found: act(found) if found.name == tile else right(found)
        return case

    return partial(make, of=name, act=act.__name__)


def timed(name: str) -> gpu_plan.Make:
    def make(**_: Any) -> gpu_cases.Case:
        case = SMALL[name]()
        case.timed, case.label = True, case.label + " timed"
        case.peers = {"nothing": lambda: None, "too much": lambda: 1 // 0}
        return case

    return partial(make, of=name)


@pytest.fixture
def device(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `main` asks of a device, given without one: a name, a clock, and workers forked here."""
    known = {"device": "Some GPU", "capability": "9.0", "torch": "2.11.0", "triton": "3.6.0"}
    monkeypatch.setattr(gpu_timing, "environment", lambda: dict(known))
    peaks = {"bf16_tflops": 900.0, "fp8_tflops": None, "copy_gbps": 3000.0}
    monkeypatch.setattr(gpu_timing, "peaks", lambda: peaks)
    monkeypatch.setattr(gpu_timing, "median_ms", lambda function: 1.0)
    monkeypatch.setattr(gpu_kernels, "spawn", Forked)
    monkeypatch.setattr(gpu_kernels, "compile_all", lambda seconds, options: None)
    monkeypatch.setattr(gpu_kernels, "available", lambda: True)
    monkeypatch.setattr(gpu_graphs, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_graphs, "WAYS", {"eager": gpu_graphs._eager})
    cases = {key: case for key, case in gpu_graphs.CASES.items() if key[0] in ("norm_rope", "face_attention")}
    monkeypatch.setattr(gpu_graphs, "CASES", cases)
    checked = {"norm_rope": [SMALL["norm_rope"]], "face_attention": [SMALL["face_attention"]]}
    monkeypatch.setattr(gpu_plan, "CHECKED", checked)
    monkeypatch.setattr(gpu_plan, "TIMED", {name: [timed(name)] for name in checked})


def report_in(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("gpu_kernels_Some_GPU_torch_2_11_0_*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def rows_of(report: dict[str, Any], kernel: str) -> dict[str, dict[str, Any]]:
    return {entry["label"]: entry for entry in report["kernels"] if entry["kernel"] == kernel}


@pytest.mark.usefixtures("device")
def test_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Report, plot and exit status; a second run of one kernel leaves what the first found of the others."""
    assert gpu_kernels.main(["--output", str(tmp_path)]) == 0
    report = report_in(tmp_path)
    (case,) = (entry for label, entry in rows_of(report, "norm_rope").items() if "timed" in label)
    assert case["tiles"][case["fastest"]]["of_peak"] > 0
    assert case["peers"]["nothing"]["ms"] == 1.0
    assert "ZeroDivisionError" in case["peers"]["too much"]["failure"]
    assert {row["kernel"] for row in report["sanitizer"]} == {"norm_rope", "face_attention"}
    assert all(row["passed"] for row in report["compiled_and_graphs"])
    goals = {goal["kernel"]: goal["met"] for goal in report["goals"]}
    assert goals["two_segment"] is None
    assert goals["norm_rope"] is not None
    (picture,) = tmp_path.glob("*.svg")
    assert "norm_rope" in picture.read_text()
    assert "GB/s" in capsys.readouterr().out
    assert gpu_kernels.main(["--output", str(tmp_path), "--only", "face", "--check"]) == 0
    again = report_in(tmp_path)
    assert len(again["kernels"]) == len(report["kernels"])
    assert rows_of(again, "norm_rope") == rows_of(report, "norm_rope")
    assert again["peaks"] == report["peaks"]


@pytest.mark.usefixtures("device")
def test_a_tile_that_ends_the_process_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies is followed by one that does the rest; the tile's figures elsewhere are withheld."""
    dead, alive = (tile.name for tile in TILES["norm_rope"])
    monkeypatch.setitem(gpu_plan.CHECKED, "norm_rope", [spoilt("norm_rope", dead, deadly), SMALL["norm_rope"]])
    assert gpu_kernels.main(["--output", str(tmp_path)]) == 1
    report = report_in(tmp_path)
    states = [{name: row["passed"] for name, row in e["tiles"].items()} for e in report["kernels"]]
    assert {dead: False, alive: True} in states
    assert {dead: True, alive: True} in states
    (case,) = (entry for label, entry in rows_of(report, "norm_rope").items() if "timed" in label)
    assert case["fastest"] == alive
    assert "ms" not in case["tiles"][dead]
    assert case["tiles"][dead]["withheld"]["ms"] == 1.0
    assert all("fastest" in e for e in rows_of(report, "face_attention").values() if "timed" in e["label"])


@pytest.mark.usefixtures("device")
def test_a_tile_that_hangs_is_ended_and_not_called_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = TILES["norm_rope"][0].name
    monkeypatch.setitem(gpu_plan.CHECKED, "norm_rope", [spoilt("norm_rope", first, hung)])
    monkeypatch.setattr(gpu_kernels, "GRACE", 0.0)
    monkeypatch.setattr(gpu_kernels, "GRAPHS", 0.0)
    monkeypatch.setattr(gpu_kernels, "SANITIZER", 0.0)
    assert gpu_kernels.main(["--output", str(tmp_path), "--only", "norm_rope", "--check", "--seconds", "4"]) == 0
    (entry,) = report_in(tmp_path)["kernels"]
    assert entry["tiles"][first]["failure"] == "time was up"
    assert gpu_report.passed(entry) is None


@pytest.mark.usefixtures("device")
def test_a_second_run_keeps_what_it_does_not_get_to_the_end_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether time was up before a case was begun or while it ran; a failure does replace what was found before."""
    assert gpu_kernels.main(["--output", str(tmp_path)]) == 0
    before = report_in(tmp_path)
    monkeypatch.setattr(gpu_kernels, "GRACE", 0.0)
    capsys.readouterr()
    assert gpu_kernels.main(["--output", str(tmp_path), "--seconds", "0"]) == 0
    assert capsys.readouterr().out.count("Not reached") == len(before["kernels"])
    for name in gpu_report.LISTS[:2]:
        assert report_in(tmp_path)[name] == before[name]
    kept = report_in(tmp_path)
    (path,) = tmp_path.glob("*.json")
    gpu_measure.measure_kernel("norm_rope", gpu_report.Report(path), "later", 0, True)
    assert report_in(tmp_path) == kept
    arguments = ["--output", str(tmp_path), "--only", "norm_rope", "--seconds", "3"]
    monkeypatch.setattr(gpu_cases.rotary, "launch", lambda *_: time.sleep(60))
    assert gpu_kernels.main(arguments) == 0
    assert report_in(tmp_path)["kernels"] == before["kernels"]
    monkeypatch.setattr(gpu_cases.rotary, "launch", lambda *_: 1 // 0)
    assert gpu_kernels.main(arguments) == 1
    assert "ZeroDivisionError" in json.dumps(report_in(tmp_path)["kernels"])


@pytest.mark.usefixtures("device")
def test_a_run_cut_off_is_judged_as_far_as_it_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its goals and fastest tiles are in the file, and its plot can be drawn; what it was at is no failure."""
    finish = gpu_kernels.finish

    def cut(part: str, *rest: Any) -> None:
        if part == "graphs":
            raise KeyboardInterrupt
        finish(part, *rest)

    monkeypatch.setattr(gpu_kernels, "finish", cut)
    with pytest.raises(KeyboardInterrupt):
        gpu_kernels.main(["--output", str(tmp_path)])
    found = report_in(tmp_path)
    assert {goal["kernel"]: goal["met"] for goal in found["goals"]}["norm_rope"] is not None
    (path,) = tmp_path.glob("*.json")
    report = gpu_report.Report(path)
    for entry in report.data["kernels"]:  # as the file is while the first tile of each is run
        entry.pop("fastest", None)
        row, saved = next(iter(entry["tiles"].values())), []
        with gpu_measure.step(row, lambda row=row, saved=saved: saved.append(dict(row))):
            row["passed"] = True
        row |= saved[0]
        assert row["failure"] == gpu_report.BEGUN
    report.save()
    assert gpu_plot.main([str(path)]) == 0
    assert "norm_rope" in path.with_suffix(".svg").read_text()
    assert not any(tiles.wrong_tiles(report.data, entry["kernel"], 64) for entry in report.data["kernels"])


def test_the_tile_table_takes_nothing_that_is_withheld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tiles, static):
        copy = tmp_path / module.TABLE.name
        copy.write_text(module.TABLE.read_text())
        monkeypatch.setattr(module, "TABLE", copy)
    before = tiles.TABLE.read_text()
    rows = {tile.name: {"passed": True, "ms": 1.0, "tflops": 100.0} for tile in tiles.tiles("two_segment", 90, 128)}
    report = {
        "capability": "9.0", "device": "H100", "torch": "2", "triton": "3", "date": "today",
        "kernels": [{"kernel": "two_segment", "case": "x", "size": 128, "tiles": rows}],
        "compiled_and_graphs": [{"kernel": "two_segment", "variant": "", "passed": False}], "sanitizer": [],
    }  # fmt: skip
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    tiles.main(path)
    assert json.loads(tiles.TABLE.read_text()) == json.loads(before)
    path.write_text(json.dumps(report | {"compiled_and_graphs": []}))
    tiles.main(path)
    assert "H100, triton 3" in tiles.TABLE.read_text()


@pytest.mark.usefixtures("device")
def test_a_worker_that_cannot_begin_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_kernels, "worker", lambda options: 5)
    assert gpu_kernels.main(["--output", str(tmp_path), "--only", "face"]) == 1
    assert "ended with 5" in json.dumps(report_in(tmp_path))


def test_operators_of_the_graph_check_agree_eagerly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its cases, shapes and bounds, without the GPU's own ways."""
    monkeypatch.setattr(gpu_graphs, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_graphs, "WAYS", {"eager": gpu_graphs._eager})
    report = gpu_report.Report(tmp_path / "report.json")
    gpu_graphs.check_all(report, "first", "", LATER)
    rows = report.data["compiled_and_graphs"]
    assert {row["kernel"] for row in rows} == set(tiles.kernels())
    assert all(row["passed"] for row in rows), rows
    halved = {"eager": lambda operator, arguments: operator(*(a.bfloat16() for a in arguments[:5]), arguments[5])}
    monkeypatch.setattr(gpu_graphs, "WAYS", halved)  # a kernel took what it cannot: the fallback is told from it
    assert gpu_graphs.check("two_segment", gpu_graphs.FALLBACK)["eager"] > gpu_graphs.bound("", gpu_graphs.FALLBACK)
    monkeypatch.setattr(gpu_graphs, "WAYS", {"eager": lambda operator, arguments: torch.zeros(())})
    key = ("face_attention", "")
    operator, plain, make = gpu_graphs.CASES[key]
    monkeypatch.setitem(gpu_graphs.CASES, key, (operator, plain, lambda: (*make(), 1 // 0)))
    gpu_graphs.check_all(report, "second", "", LATER)
    assert not any(row["passed"] for row in report.data["compiled_and_graphs"])
    assert len(report.data["compiled_and_graphs"]) == len(rows)


def test_compiling_ahead_needs_no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every launch of a kernel's cases compiles on the meta device, for an H100 that is not here."""
    monkeypatch.setattr(gpu_cases, "DEVICE", "meta")
    monkeypatch.setattr(dispatch, "architecture", lambda device: 90)
    monkeypatch.setattr(dispatch, "capability", lambda device: 90)
    for plan in (gpu_plan.CHECKED, gpu_plan.RAGGED, gpu_plan.TIMED):
        chosen = [make for make in plan["norm_rope"] if make.func is gpu_cases.norm_rope_fp8]  # type: ignore[attr-defined]
        monkeypatch.setitem(plan, "norm_rope", chosen)
    with sm_90(tmp_path):
        launches = gpu_warm.compile_share(0, 2, ["norm_rope"], LATER)
    assert launches >= 5
    assert len(list(tmp_path.rglob("*.cubin"))) == 3  # with and without an offset and in float16, for all lengths


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_runs_from_a_checkout_and_says_that_there_is_no_gpu() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "benchmark" / "gpu_kernels.py"), "--check"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "no CUDA GPU" in result.stderr


def test_every_kernel_of_the_table_is_checked_timed_and_sanitised() -> None:
    assert set(gpu_plan.CHECKED) == set(gpu_plan.TIMED) == set(gpu_plan.RAGGED) == set(tiles.kernels())
    cases = [make for plan in (gpu_plan.CHECKED, gpu_plan.TIMED) for makes in plan.values() for make in makes]
    assert len(gpu_plan.names()) == len(cases)
