"""A whole run of the GPU check without a GPU: what is reported, withheld, and kept when a worker ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
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
    gpu_rows,
    gpu_tiles,
    gpu_timing,
)
from dreamactor.kernels.tiles import Tile
from tests.benchmark.gpu_testing import SMALL, TILES

ROOT = Path(__file__).resolve().parents[2]


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
    monkeypatch.setattr(gpu_rows.rotary, "launch", lambda *_: time.sleep(60))
    assert gpu_kernels.main(arguments) == 0
    assert report_in(tmp_path)["kernels"] == before["kernels"]
    monkeypatch.setattr(gpu_rows.rotary, "launch", lambda *_: 1 // 0)
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
    assert not any(gpu_tiles.wrong_tiles(report.data, entry["kernel"], 64) for entry in report.data["kernels"])


@pytest.mark.usefixtures("device")
def test_a_worker_that_cannot_begin_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_kernels, "worker", lambda options: 5)
    assert gpu_kernels.main(["--output", str(tmp_path), "--only", "face"]) == 1
    assert "ended with 5" in json.dumps(report_in(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_runs_from_a_checkout_and_says_that_there_is_no_gpu() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "benchmark" / "gpu_kernels.py"), "--check"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "no CUDA GPU" in result.stderr
