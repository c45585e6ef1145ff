"""The GPU check's report: what a failure takes with it, what stays, what is put back; goals; the sanitizer's rows."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from dreamactor.benchmark import gpu_plot, gpu_report, gpu_sanitize


def figures(ms: float, **more: Any) -> dict[str, Any]:
    return {"passed": True, "ms": ms, "tflops": 500 / ms, "of_peak": 0.5, **more}


def entry(kernel: str, case: str, size: int | None = 128, peers: Any = None, **tiles: Any) -> dict[str, Any]:
    known = {"kernel": kernel, "case": case, "label": case, "size": size, "variant": "" if size else "to E4M3"}
    return {**known, "tiles": tiles, "peers": peers or {}, "run": "now"}


def report(*entries: dict[str, Any], **lists: Any) -> dict[str, Any]:
    return {"kernels": list(entries), "compiled_and_graphs": [], "sanitizer": [], **lists}


def test_a_wrong_tile_takes_its_own_figures_of_that_size_alone() -> None:
    found = report(
        entry("two_segment", "small", a={"passed": False}, b={"passed": True}),
        entry("two_segment", "large", a=figures(1.0), b=figures(2.0)),
        entry("two_segment", "other size", 64, a=figures(1.0)),
        entry("norm_rope", "another kernel", a=figures(1.0)),
    )
    gpu_report.judge(found)
    _, large, other, another = found["kernels"]
    assert large["fastest"] == "b"
    assert "ms" not in large["tiles"]["a"]
    assert large["tiles"]["a"]["withheld"]["tflops"] == 500
    assert "small" in large["tiles"]["a"]["why"]
    assert other["fastest"] == another["fastest"] == "a"
    found["kernels"][0]["tiles"]["a"]["passed"] = True  # a later run of the day, repaired
    gpu_report.judge(found)
    assert large["fastest"] == "a"
    assert "withheld" not in large["tiles"]["a"]


@pytest.mark.parametrize(
    ("part", "which", "left"),
    [("compiled_and_graphs", {"variant": "to E4M3"}, ["main", "x"]), ("sanitizer", {}, ["x"])],
)
def test_a_kernel_that_fails_as_a_whole_has_no_figures(part: str, which: dict[str, str], left: list[str]) -> None:
    row = {"kernel": "norm_rope", "passed": False, "run": "now", **which}
    found = report(
        entry("norm_rope", "main", a=figures(1.0)), entry("norm_rope", "fp8", None, a=figures(1.0)),
        entry("modulate_norm", "x", a=figures(1.0)), **{part: [row]},
    )  # fmt: skip
    gpu_report.judge(found)
    assert [e["case"] for e in found["kernels"] if "fastest" in e] == left


def test_goals_are_judged_from_what_stands() -> None:
    peers = {"flash": {"ms": 1.1}, "cudnn": {"failure": "no"}, "masked efficient": {"ms": 3.5}}
    found = report(
        entry("two_segment", "16384 D128", peers=peers, a=figures(500 / 530)),
        entry("two_segment", "16384 D64", 64, peers=peers, a=figures(1.0)),
        entry("sparse_attention", "D128", a=figures(500 / 400)),
        entry("face_attention", "D128", peers=peers, a=figures(1.0)),
        entry("modulate_norm", "x", a=figures(1.0)),
        entry("norm_rope", "x", a={"passed": False}),
    )
    gpu_report.judge(found)
    rows = gpu_plot.goals(found)
    met = {(goal["kernel"], goal["measure"], goal["case"]): goal["met"] for goal in rows}
    speed = "speed against the best backend after concatenating"
    assert met == {
        ("two_segment", "tflops", "16384 D128"): True, ("two_segment", speed, "16384 D128"): True,
        ("two_segment", speed, "16384 D64"): True, ("sparse_attention", "of the dense kernel's tflops", "D128"): False,
        ("face_attention", "speed against masked SDPA", "D128"): True, ("modulate_norm", "of_peak", "x"): False,
        ("norm_rope", "of_peak", None): None, ("fp8_attention", "tflops", None): None,
    }  # fmt: skip


def test_the_file_is_json_and_a_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    kept = gpu_report.Report(tmp_path / "report.json")
    kept.row("kernels", "first", kernel="a", case="x").update({"tiles": {"t": {"passed": False, "error": math.nan}}})
    kept.save()
    assert "NaN" not in kept.path.read_text()
    again = gpu_report.Report(kept.path)
    assert again.row("kernels", "first", kernel="a", case="x")["tiles"]["t"]["error"] is None
    assert again.row("kernels", "second", kernel="a", case="x") == {"kernel": "a", "case": "x", "run": "second"}
    assert len(again.data["kernels"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_the_plot_is_drawn_again_from_the_file(tmp_path: Path) -> None:
    found = report(entry("two_segment", "16384 D128", peers={"flash": figures(1.2)}, a=figures(1.0)))
    found |= {"device": "Some GPU", "torch": "2.11", "triton": "3.6", "date": "today"}
    gpu_report.judge(found)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(found))
    assert gpu_plot.main([str(path)]) == 0
    drawn = path.with_suffix(".svg").read_text()
    assert "flash" in drawn
    assert "Some GPU" in drawn
    path.write_text(json.dumps(found | {"kernels": []}))
    assert gpu_plot.main([str(path)]) == 1


def test_the_sanitizer_judges_each_kernel_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the tool that runs the command it is given, as the real one does."""
    script = tmp_path / gpu_sanitize.TOOL
    script.write_text('#!/bin/sh\nshift 4\nexec "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    text = (
        "import os, sys\n"
        "assert os.environ['PYTORCH_NO_CUDA_MEMORY_CACHING'] == '1'\n"
        "bad = sys.argv[1] == 'sanitize:bad'\n"
        "print('========= Invalid __global__ read\\n========= ERROR SUMMARY: 1 error' if bad else 'fine')\n"
        "sys.exit(9 if bad else 0)"
    )
    good, bad = gpu_sanitize.sanitize(["good", "bad"], [sys.executable, "-c", text], 60)
    assert good["passed"] is True
    assert bad["passed"] is False
    assert "Invalid __global__ read" in bad["failure"]
    assert bad["summary"] == "ERROR SUMMARY: 1 error"
    (late,) = gpu_sanitize.sanitize(["good"], [sys.executable, "-c", text], 0.001)
    assert late["passed"] is None
    script.unlink()
    if gpu_sanitize.tool() is None:
        (row,) = gpu_sanitize.sanitize(["good"], [], 60)
        assert row["passed"] is None
        assert "PATH" in row["failure"]
