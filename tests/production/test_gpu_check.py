"""`make gpu-check` of the engines, as far as it goes without a GPU: what it refuses, records and fails for."""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path

import pytest

from dreamactor.engines.gpu import Gpu, local_gpu
from dreamactor.production import gpu_check
from dreamactor.production.gpu_check import check, check_engines
from dreamactor.production.make import REPORT_JSON, Result
from dreamactor.production.request import Request

CARD = Gpu("NVIDIA Nothing 1", "sm86", 2**34, "13.0")


@pytest.mark.skipif(local_gpu() is not None, reason="there is a GPU")
def test_gpu_check_without_a_gpu_builds_nothing_and_says_so(tmp_path: Path) -> None:
    report = check_engines("tiny", tmp_path)
    assert report["gpu"] is None
    assert report["results"] == []
    assert json.loads(json.dumps(report))["preset"] == "tiny"
    assert gpu_check.main(["--engines", str(tmp_path), "--output", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []


def test_gpu_check_records_each_engine_and_fails_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A card that is not there: what is built for it is refused one by one, written down, and the rest goes on."""
    monkeypatch.setattr(gpu_check, "local_gpu", lambda: CARD)
    monkeypatch.setattr(gpu_check, "targets", lambda: ("sm86", "sm99"))
    monkeypatch.setattr(gpu_check, "PRECISIONS", ("fp8",))
    assert gpu_check.main(["--engines", str(tmp_path / "engines"), "--output", str(tmp_path)]) == 1
    found = json.loads(next(tmp_path.glob("engines_NVIDIA_Nothing_1_20*.json")).read_text())
    assert found["gpu"] == {"name": "NVIDIA Nothing 1", "architecture": "sm86", "memory": 2**34, "driver": "13.0"}
    assert [result["passed"] for result in found["results"]] == [None, None]
    assert "fp8 needs SM89" in found["results"][0]["error"]
    assert "fp8 on sm99: not supported here There is no target" in capsys.readouterr().out


@pytest.mark.parametrize(("ran", "passed"), [(True, True), (False, False)])
def test_gpu_check_fails_for_an_engine_that_did_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: bool, passed: bool
) -> None:
    def made(request: Request) -> Result:
        (tmp_path / REPORT_JSON).write_text(json.dumps({"networks": [{"network": "denoiser", "ran": ran}]}))
        return Result(tmp_path, True, True, "")

    monkeypatch.setattr(gpu_check, "make_engines", made)
    assert check("tiny", "int8", "cpu", tmp_path)["passed"] is passed


def test_gpu_check_records_whatever_a_runtime_throws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(request: Request) -> Result:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(gpu_check, "make_engines", broken)
    found = check("tiny", "int8", "cpu", tmp_path)
    assert found == {
        "passed": False, "error": "RuntimeError: CUDA error: an illegal memory access was encountered"
    }  # fmt: skip


def test_a_set_that_was_there_is_measured_again(tiny_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a figure of the day it was built on is left, and what is not measured again is not claimed."""
    before = (tiny_engines / REPORT_JSON).read_bytes()
    monkeypatch.setattr(gpu_check, "make_engines", lambda request: Result(tiny_engines, True, False, ""))
    found = check("tiny", "fp32", "cpu", tiny_engines.parent)
    assert found["passed"] is True
    rows, old = found["report"]["networks"], json.loads(before)["networks"]
    assert [row["network"] for row in rows] == [row["network"] for row in old]
    assert all(row["latency_ms"] > 0 and row["reference_ms"] is None for row in rows)
    assert [row["latency_ms"] for row in rows] != [row["latency_ms"] for row in old]
    json.dumps(found, allow_nan=False)
    monkeypatch.setattr(gpu_check, "make_engines", lambda request: Result(tiny_engines, False, False, ""))
    assert check("tiny", "fp32", "cpu", tiny_engines.parent)["passed"] is False  # its video missed the gate
    assert (tiny_engines / REPORT_JSON).read_bytes() == before


def test_each_set_has_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first crashes, and the second is none the worse; the report is heard after each."""
    monkeypatch.setattr(gpu_check, "targets", lambda: ("rtx", "cpu"))
    monkeypatch.setattr(gpu_check, "PRECISIONS", ("fp32",))
    monkeypatch.setattr(gpu_check, "check", check_or_crash)
    heard: list[int] = []
    results = check_engines("tiny", tmp_path, on_result=lambda found: heard.append(len(found["results"])))["results"]
    assert [result["passed"] for result in results] == [False, True]
    assert "SIGSEGV" in results[0]["error"]
    assert results[1]["process"] != os.getpid()
    assert heard == [1, 2]


def check_or_crash(preset: str, precision: str, target: str, folder: Path) -> dict[str, object]:
    if target == "rtx":
        ctypes.string_at(0)
    return {"passed": (preset, precision, folder.is_dir()) == ("tiny", "fp32", True), "process": os.getpid()}
