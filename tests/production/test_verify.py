"""`dreamactor verify` on a real set: everything run and measured, or said not to be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dreamactor.cli import main
from dreamactor.engines.gpu import local_gpu
from dreamactor.errors import EngineError
from dreamactor.production.make import make_engines
from dreamactor.production.request import make_request
from dreamactor.production.verify import verify_set


@pytest.fixture
def copied(tiny_engines: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_engines, tmp_path / "set"))


def test_fp32_on_the_cpu_is_run_beside_the_graph_as_it_was_exported(
    tiny_engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tiny_engines)]) == 0
    said = capsys.readouterr().out.splitlines()
    rows = [line for line in said if line.endswith("pass")]
    assert len(rows) == 5
    assert all(" ms" in row and " dB" in row for row in rows)
    assert said[-1] == "all 5 files are those of the manifest"


@pytest.mark.skipif(local_gpu() is not None, reason="there is a GPU")
def test_an_engine_for_another_machine_is_not_verified_and_that_is_said(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["networks"]["denoiser"]["architecture"] = "sm89"
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert main(["verify", str(copied)]) == 1
    said = capsys.readouterr().out
    assert next(line for line in said.splitlines() if line.startswith("denoiser")).endswith("not run")
    assert "not run here: built for sm89; this machine has no NVIDIA GPU" in said
    assert "NOT VERIFIED: 1 of 5 engines cannot run here" in said


def test_one_flipped_byte_is_refused_before_anything_runs(copied: Path) -> None:
    content = bytearray((copied / "vae_decoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "vae_decoder.onnx").write_bytes(content)
    with pytest.raises(EngineError, match=r"vae_decoder.onnx has SHA-256 .* it was changed"):
        verify_set(copied)


def test_without_what_it_was_made_from_a_set_cannot_be_verified(copied: Path) -> None:
    report = json.loads((copied / "report.json").read_text())
    report["store"]["onnx"]["denoiser"] = "pruned"
    (copied / "report.json").write_text(json.dumps(report))
    with pytest.raises(EngineError, match=r"pruned/denoiser.onnx is not there any more"):
        verify_set(copied)
    (copied / "report.json").unlink()
    with pytest.raises(EngineError, match=r"no readable report.json"):
        verify_set(copied)


def test_the_report_cannot_leave_a_network_out(copied: Path) -> None:
    report = json.loads((copied / "report.json").read_text())
    report["networks"] = report["networks"][1:]
    (copied / "report.json").write_text(json.dumps(report))
    with pytest.raises(EngineError, match="name different networks"):
        verify_set(copied)


def test_the_reference_must_be_what_the_engine_was_made_from(copied: Path, tmp_path: Path) -> None:
    report = json.loads((copied / "report.json").read_text())
    shutil.copytree(report["store"]["root"] + "/onnx", tmp_path / "store" / "onnx")
    other = tmp_path / "store" / "onnx" / report["store"]["onnx"]["denoiser"] / "denoiser.onnx"
    other.write_bytes(other.read_bytes() + b"x")
    report["store"]["root"] = str(tmp_path / "store")
    (copied / "report.json").write_text(json.dumps(report))
    with pytest.raises(EngineError, match="is not what denoiser was made from"):
        verify_set(copied)


def test_recorded_inputs_must_be_those_of_the_build(tmp_path: Path, tiny_store: Path) -> None:
    request = make_request("tiny", "fp16", "cpu", output=tmp_path / "set", store=tiny_store)
    make_engines(request, lambda line: None)
    assert verify_set(tmp_path / "set")[0]
    samples = next((tiny_store / "samples").glob("*/denoiser.000.safetensors"))
    content = bytearray(samples.read_bytes())
    content[-1] ^= 1
    samples.write_bytes(content)
    with pytest.raises(EngineError, match="are not those that were recorded: remove the set and build it again"):
        verify_set(tmp_path / "set")
    shutil.rmtree(tmp_path / "set")
    make_engines(request, lambda line: None)
    assert verify_set(tmp_path / "set")[0]


def test_a_build_in_fp32_was_run_beside_the_exported_graph(tiny_engines: Path) -> None:
    rows = json.loads((tiny_engines / "report.json").read_text())["networks"]
    assert all(row["snr_db"] > 80 and row["latency_ms"] > 0 for row in rows)
