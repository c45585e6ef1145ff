"""What `dreamactor doctor` makes of what is installed, and that its remedies do not make it worse."""

from __future__ import annotations

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


def test_no_remedy_installs_a_second_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "")
    remedies = [finding.remedy for finding in doctor._packages()]
    assert all(remedies)
    assert not any("gpu" in remedy or "cpu" in remedy or "make" in remedy for remedy in remedies)
