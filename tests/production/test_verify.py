"""`dreamactor verify` on a real set, also where nothing of its build is: everything measured, or said not to be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from dreamactor.cli import main
from dreamactor.engines.gpu import local_gpu
from dreamactor.engines.trust import sha256
from dreamactor.engines.verify import Comparison
from dreamactor.errors import EngineError
from dreamactor.production import verify
from dreamactor.production.make import make_engines, up_to_date
from dreamactor.production.request import make_request
from dreamactor.production.verify import verify_set


def edit(path: Path, name: str = "denoiser", **values: object) -> None:
    """Changes a network's record in a manifest, or its row in a report."""
    content = json.loads(path.read_text())
    networks = content["networks"]
    if not isinstance(networks, dict):
        networks = {row["network"]: row for row in networks}
    networks[name].update(values)
    path.write_text(json.dumps(content))


def test_fp32_on_the_cpu_is_compared_with_the_graph_as_it_was_exported(
    tiny_engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tiny_engines)]) == 0
    said = capsys.readouterr().out.splitlines()
    rows = [line for line in said if line.endswith("pass")]
    assert len(rows) == 5
    assert all(" ms" in row and " dB" in row for row in rows)
    assert said[-1] == "all 10 files are those of the manifest"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_set_is_verified_where_its_store_is_not(tmp_path: Path, tiny_store: Path, precision: str) -> None:
    """Built on one machine, copied to another: noise for FP32, which records nothing, and a recorded input for FP16."""
    made = tmp_path / "builder" / "set"
    request = make_request("tiny", precision, "cpu", output=made, store=tiny_store)
    assert make_engines(request, lambda line: None).passed
    report = (made / "report.json").read_text()
    assert str(tmp_path) not in report
    shutil.copytree(made, tmp_path / "set")
    shutil.rmtree(made)
    shutil.rmtree(tiny_store)
    program = (
        "import sys; from pathlib import Path; from dreamactor.production.verify import verify_set\n"
        "found = verify_set(Path(sys.argv[1])); print(found.text, file=sys.stderr)\n"
        "print(found.passed, [name for name in ('torch', 'onnx', 'modelopt') if name in sys.modules])\n"
        "print(*(row.snr_db for row in found.rows))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "set")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    verdict, decibels = result.stdout.splitlines()
    assert verdict == "True []", result.stderr
    at_build = [row["snr_db"] for row in json.loads(report)["networks"]]
    assert [float(value) for value in decibels.split()] == pytest.approx(at_build, abs=0.1)


def test_an_engine_that_did_not_run_where_it_was_built_is_measured_where_it_does(copied: Path) -> None:
    edit(copied / "report.json", ran=False, latency_ms=None, note="not run here: built for another machine")
    found = verify_set(copied)
    assert found.passed
    (row,) = (row for row in found.rows if row.network == "denoiser")
    assert row.verdict == "pass"
    assert row.latency_ms is not None
    assert "not run here" not in found.text


def test_an_engine_with_other_weights_fails(copied: Path) -> None:
    """Whole, what its manifest says, and wrong: only running it shows it."""
    path = copied / "vae_encoder.onnx"
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(largest), largest.name))
    onnx.save(model, path)
    file = {"path": path.name, "sha256": sha256(path), "bytes": path.stat().st_size}
    edit(copied / "manifest.json", "vae_encoder", files=[file])
    found = verify_set(copied)
    assert [row.network for row in found.rows if not row.passed] == ["vae_encoder"]
    assert not found.passed


@pytest.mark.skipif(local_gpu() is not None, reason="there is a GPU")
def test_an_engine_for_another_machine_is_not_verified_and_that_is_said(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(copied / "manifest.json", architecture="sm89")
    assert main(["verify", str(copied)]) == 1
    said = capsys.readouterr().out
    assert next(line for line in said.splitlines() if line.startswith("denoiser")).endswith("not run")
    assert "not run here: built for sm89; this machine has no NVIDIA GPU" in said
    assert "NOT VERIFIED: 1 of 5 engines cannot run here" in said


@pytest.mark.parametrize("name", ["vae_decoder.onnx", "vae_decoder.example.safetensors"])
def test_one_flipped_byte_is_refused_before_anything_runs(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(EngineError, match=f"{name} has SHA-256 .* it was changed"):
        verify_set(copied)


def test_without_examples_or_a_report_a_set_cannot_be_verified(copied: Path) -> None:
    edit(copied / "manifest.json", example=None)
    with pytest.raises(EngineError, match=r"no example of denoiser .* build it again"):
        verify_set(copied)
    (copied / "report.json").unlink()
    with pytest.raises(EngineError, match=r"no readable report.json"):
        verify_set(copied)


@pytest.mark.parametrize("change", [{"bytes": "many"}, {"facts": [1]}, {"latency": 1.0}])
def test_a_report_that_cannot_be_shown_is_none(copied: Path, change: dict[str, object]) -> None:
    edit(copied / "report.json", **change)
    with pytest.raises(EngineError, match=r"no readable report\.json"):
        verify_set(copied)
    assert up_to_date(make_request("tiny", "fp32", "cpu", output=copied)) is None


def test_the_report_cannot_leave_a_network_out(copied: Path) -> None:
    report = json.loads((copied / "report.json").read_text())
    report["networks"] = report["networks"][1:]
    (copied / "report.json").write_text(json.dumps(report))
    with pytest.raises(EngineError, match="name different networks"):
        verify_set(copied)


def test_the_report_cannot_lower_a_gate(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody signs it: the precision is the manifest's, and what was found here counts, not what the build found."""
    found = {"denoiser": 39.0}  # FP32's gate is 40 dB
    monkeypatch.setattr(
        verify, "verify_engine", lambda folder, name, public_key: Comparison(name, 1.0, None, found.get(name, 60.0))
    )
    edit(copied / "report.json", precision="fp16")
    rows = verify_set(copied).rows
    assert {row.precision for row in rows} == {"fp32"}
    assert [row.network for row in rows if not row.passed] == ["denoiser"]


def test_a_build_in_fp32_was_run_beside_the_exported_graph(tiny_engines: Path) -> None:
    rows = json.loads((tiny_engines / "report.json").read_text())["networks"]
    assert all(row["snr_db"] > 80 and row["latency_ms"] > 0 and row["reference_ms"] > 0 for row in rows)
