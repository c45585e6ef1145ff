"""What `dreamactor doctor` makes of what is installed, and that its remedies do not make it worse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dreamactor import doctor
from dreamactor.doctor import SETUP
from dreamactor.engines.gpu import Gpu

CARD = Gpu("A Card", "sm89", 24 * 2**30, "13.0")


@pytest.mark.parametrize(
    ("gpu", "installed", "ok", "found"),
    [
        (None, {"onnxruntime": "1.31"}, True, "onnxruntime 1.31"),
        (None, {"onnxruntime-gpu": "1.31"}, True, "onnxruntime-gpu 1.31"),
        (None, {}, False, "missing"),
        (CARD, {"onnxruntime-gpu": "1.31"}, True, "onnxruntime-gpu 1.31"),
        (CARD, {"onnxruntime": "1.31"}, False, "not onnxruntime-gpu"),
        (CARD, {}, False, "missing"),
        (None, {"onnxruntime": "1.31", "onnxruntime-gpu": "1.31"}, False, "each overwrites the other"),
        (CARD, {"onnxruntime": "1.31", "onnxruntime-gpu": "1.31"}, False, "each overwrites the other"),
    ],
)
def test_one_onnxruntime_for_the_machine_is_right(
    monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None, installed: dict[str, str], ok: bool, found: str
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: installed.get(name, ""))
    finding = doctor._onnxruntime(gpu)
    assert found in finding.found
    assert (finding.ok, finding.remedy) == ((True, "") if ok else (False, SETUP))


def test_tensorrt_is_missed_only_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "")
    assert doctor._tensorrt(None).ok
    assert doctor._tensorrt(CARD).remedy == SETUP
    monkeypatch.setattr(doctor, "_version", lambda name: "11.4" if name == "tensorrt-cu13" else "")
    assert (doctor._tensorrt(CARD).ok, doctor._tensorrt(CARD).found) == (True, "11.4")


def test_the_gpu_is_what_engines_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._gpu(CARD).found == "A Card, 24 GiB, sm89, driver for CUDA 13.0"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor._gpu(None).ok
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")  # of a container without `compute`
    assert "NVIDIA_DRIVER_CAPABILITIES=compute" in doctor._gpu(None).remedy


def test_a_driver_for_an_earlier_cuda_runs_nothing() -> None:
    finding = doctor._gpu(replace(CARD, driver="12.8"))
    assert not finding.ok
    assert "for CUDA 12.8; TensorRT 11, TensorRT-RTX and onnxruntime-gpu need one for CUDA 13" in finding.remedy
    assert "is sm70; TensorRT 11 runs from sm75" in doctor._gpu(replace(CARD, architecture="sm70")).remedy


def test_kernels_in_pytorch_want_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor._compiler(None) == []
    monkeypatch.setenv("CC", "/usr/bin/my-cc")
    monkeypatch.setattr(doctor.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    assert "missing Python.h" in doctor._compiler(CARD)[0].found
    (tmp_path / "Python.h").touch()
    assert doctor._compiler(CARD) == [doctor.Finding("C compiler", "/usr/bin/my-cc", True)]
    monkeypatch.delenv("CC")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert "missing gcc (" in doctor._compiler(CARD)[0].found


def test_no_remedy_installs_a_second_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "")
    remedies = [finding.remedy for finding in doctor._packages()]
    assert all(remedies)
    assert not any("gpu" in remedy or "cpu" in remedy or "make" in remedy for remedy in remedies)
