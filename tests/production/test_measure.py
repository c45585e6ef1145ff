"""A set that is there is believed only if it is whole and ran; one that did not run here did not pass."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dreamactor.engines import open_engines
from dreamactor.engines.onnxruntime import CUDA
from dreamactor.engines.target import Target
from dreamactor.production import lowering
from dreamactor.production.make import make_engines, up_to_date
from dreamactor.production.request import make_request
from dreamactor.production.stages import Stages


def test_engines_that_do_not_run_on_the_machine_they_are_for_fail(tmp_path: Path, tiny_store: Path) -> None:
    """CUDA was asked for and its libraries do not load: what the CPU makes of the same graph is no pass."""
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    request = make_request("tiny", "fp32", "cpu", output=tmp_path / "set", store=tiny_store)
    request = replace(request, target=Target("cuda", "onnxruntime", "any"))
    result = make_engines(request, lambda line: None)
    assert not result.passed
    rows = json.loads((tmp_path / "set/report.json").read_text())["networks"]
    assert [(row["ran"], row["passed"], row["latency_ms"]) for row in rows] == [(False, False, None)] * 5
    assert "not run here: denoiser asks for CUDAExecutionProvider" in result.text
    assert "5 of 5 engines did not run here" in result.text
    assert result.text.count("FAIL") == 5
    assert "not run here: denoiser asks for CUDA" in (tmp_path / "set/report.html").read_text()
    assert up_to_date(request) is None  # it is tried again when the libraries are there


def test_layers_that_are_not_measured_are_counted(
    tmp_path: Path, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request("tiny", "fp16", "cpu", output=tmp_path / "set", store=tiny_store)
    stages = Stages(request, lambda what, done, total: None)
    (tmp_path / "whole").mkdir()
    whole = lowering.lower_network(stages, "pose_encoder", (), tmp_path / "whole")
    assert whole["layers_unmeasured"] == 0
    monkeypatch.setattr(lowering, "MAX_LAYERS_REPORTED", 3)
    facts = stages.precision("pose_encoder").facts
    assert len(facts["layer_snr_db"]) == 3
    assert facts["layers_unmeasured"] == len(whole["layer_snr_db"]) - 3 > 0


@pytest.mark.parametrize("name", ["denoiser.onnx", "denoiser.example.safetensors"])
def test_a_damaged_set_is_built_again(tiny_engines: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_engines, tmp_path / "set"))
    request = make_request("tiny", "fp32", "cpu", output=folder)
    found = up_to_date(request)
    assert found is not None
    assert not found.built
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    assert up_to_date(request) is None
    again = make_engines(request, lambda line: None)
    assert again.built
    assert again.passed
    open_engines(folder, threads=1).close()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
