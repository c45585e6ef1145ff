"""`make gpu-check` of the engines, as far as it goes without a GPU: what it refuses, records and fails for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dreamactor.engines.gpu import Gpu, local_gpu
from dreamactor.production import gpu_check
from dreamactor.production.gpu_check import check_engines
from dreamactor.production.make import REPORT_JSON, Result
from dreamactor.production.request import Request


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
    card = Gpu("NVIDIA Nothing 1", "sm86", 2**34, "13.0")
    monkeypatch.setattr(gpu_check, "local_gpu", lambda: card)
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
    def made(request: Request, log: object) -> Result:
        (tmp_path / REPORT_JSON).write_text(json.dumps({"networks": [{"network": "denoiser", "ran": ran}]}))
        return Result(tmp_path, True, True, "")

    monkeypatch.setattr(gpu_check, "make_engines", made)
    monkeypatch.setattr(gpu_check, "targets", lambda: ("cpu",))
    monkeypatch.setattr(gpu_check, "PRECISIONS", ("int8",))
    heard: list[int] = []
    report = check_engines("tiny", tmp_path, on_result=lambda found: heard.append(len(found["results"])))
    assert [result["passed"] for result in report["results"]] == [passed]
    assert heard == [1]


def test_gpu_check_goes_on_whatever_a_runtime_throws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(request: Request, log: object) -> Result:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(gpu_check, "make_engines", broken)
    monkeypatch.setattr(gpu_check, "targets", lambda: ("cpu",))
    monkeypatch.setattr(gpu_check, "PRECISIONS", ("fp32", "int8"))
    results = check_engines("tiny", tmp_path)["results"]
    assert [result["passed"] for result in results] == [False, False]
    assert "illegal memory access" in results[1]["error"]
