"""What `make gpu-check` makes of its parts: three states, nothing lost, every result written at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dreamactor.benchmark import gpu_check
from dreamactor.engines.gpu import Gpu

CARD = Gpu("NVIDIA Test (80 GB)", "sm90", 80 * 2**30, "13.0")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpu_check, "local_gpu", lambda: CARD)
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(gpu_check, "ENGINES", tmp_path / "engines")
    monkeypatch.setattr(gpu_check, "BENCH", tmp_path / "bench")
    return tmp_path / "results"


def script(text: str) -> tuple[str, str]:
    return ("-c", text)


def parts(results: Path) -> dict[str, Any]:
    (path,) = results.glob("gpu_check_NVIDIA_Test_80_GB__20*.json")
    found: dict[str, Any] = json.loads(path.read_text())["parts"]
    return found


def test_a_part_that_fails_or_cannot_be_started_takes_no_other_with_it(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gpu_check, "PARTS", {
            "kernels": script("import os; os.abort()"),
            "denoiser": script("import sys; print('no FP8 on this card', file=sys.stderr); sys.exit(2)"),
            "engines": ("a null byte: \0",),
            "bench": script("pass"),
        },
    )  # fmt: skip

    assert gpu_check.main([]) == 1

    found = parts(results)
    assert [found[name]["state"] for name in gpu_check.PARTS] == [
        "failed", "not supported here", "failed", "not supported here",
    ]  # fmt: skip
    assert found["denoiser"]["reason"] == "no FP8 on this card"
    assert "ValueError" in found["engines"]["reason"]
    assert "holds no FP16 engine set" in found["bench"]["reason"]


def test_every_result_is_written_before_the_next_part_begins(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = f"import glob, sys; sys.exit(not 'passed' in open(glob.glob({str(results)!r} + '/gpu_check_*')[0]).read())"
    monkeypatch.setattr(gpu_check, "PARTS", {"kernels": script("pass"), "denoiser": script(look)})
    assert gpu_check.main([]) == 0
    monkeypatch.setattr(gpu_check, "PARTS", {"kernels": script("raise SystemExit(1)"), "denoiser": script("pass")})
    assert gpu_check.main(["kernels"]) == 1
    assert {name: found["state"] for name, found in parts(results).items()} == {
        "kernels": "failed",
        "denoiser": "passed",
    }


def test_the_benchs_report_lies_with_the_results(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = gpu_check.ENGINES / "puppet-fp16-cuda"
    made.mkdir(parents=True)
    (made / "manifest.json").write_text("{}")
    write = f"""
import pathlib, sys
assert sys.argv[1:] == ["--engines", {str(made)!r}]
folder = pathlib.Path({str(gpu_check.BENCH)!r})
folder.mkdir()
(folder / "report.json").write_text("42")
sys.exit("a section broke")
"""
    monkeypatch.setattr(gpu_check, "PARTS", {"bench": script(write)})

    assert gpu_check.main(["bench"]) == 1

    assert parts(results)["bench"]["reason"] == "a section broke"
    (copied,) = results.glob("bench_NVIDIA_Test_80_GB__20*.json")
    assert copied.read_text() == "42"
