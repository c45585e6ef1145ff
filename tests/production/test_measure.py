"""A set that is there is believed only if it is whole and ran; one that did not run here did not pass."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dreamactor.engines import open_engines
from dreamactor.engines.gpu import Gpu
from dreamactor.engines.onnxruntime import CUDA
from dreamactor.production import beside
from dreamactor.production.beside import is_for_this_machine
from dreamactor.production.make import make_engines, up_to_date
from dreamactor.production.request import make_request
from tests.engines.conftest import record


def test_engines_that_do_not_run_on_the_machine_they_are_for_fail(tmp_path: Path, tiny_store: Path) -> None:
    """CUDA was asked for and its libraries do not load: what the CPU makes of the same graph is no pass."""
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    request = make_request("tiny", "fp32", "cuda", output=tmp_path / "set", store=tiny_store)
    result = make_engines(request, lambda line: None)
    assert not result.passed
    rows = json.loads((tmp_path / "set/report.json").read_text())["networks"]
    assert [(row["ran"], row["passed"], row["latency_ms"]) for row in rows] == [(False, False, None)] * 5
    assert "not run here: denoiser asks for CUDAExecutionProvider" in result.text
    assert "5 of 5 engines did not run here" in result.text
    assert result.text.count("FAIL") == 5
    assert "not run here: denoiser asks for CUDA" in (tmp_path / "set/report.html").read_text()
    assert up_to_date(request) is None  # it is tried again when the libraries are there


@pytest.mark.parametrize(
    ("architecture", "gpu", "expected"),
    [
        ("any", None, True),
        ("sm89", "sm89", True),
        ("sm89", "sm120", False),
        ("sm89", None, False),
        ("sm80+", "sm90", True),
    ],
)
def test_an_engine_for_another_gpu_need_not_run_here(
    monkeypatch: pytest.MonkeyPatch, architecture: str, gpu: str | None, expected: bool
) -> None:
    monkeypatch.setattr(beside, "local_gpu", lambda: gpu and Gpu("NVIDIA Nothing 1", gpu, 2**34, "13.0"))
    assert is_for_this_machine(record("denoiser", architecture=architecture)) is expected


def test_a_damaged_set_is_built_again(tiny_engines: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_engines, tmp_path / "set"))
    request = make_request("tiny", "fp32", "cpu", output=folder)
    found = up_to_date(request)
    assert found is not None
    assert not found.built
    content = bytearray((folder / "denoiser.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "denoiser.onnx").write_bytes(content)
    assert up_to_date(request) is None
    again = make_engines(request, lambda line: None)
    assert again.built
    assert again.passed
    open_engines(folder, threads=1).close()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
