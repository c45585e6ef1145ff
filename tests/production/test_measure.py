"""A set that is there is believed only if it is whole and ran; one that did not run here did not pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from dreamactor.engines import open_engines, read_manifest
from dreamactor.engines.onnxruntime import CUDA
from dreamactor.engines.target import Target
from dreamactor.engines.verify import Comparison
from dreamactor.export.recipe import Recipe
from dreamactor.production import lowering
from dreamactor.production import measure as measuring
from dreamactor.production.gate import Verdict
from dreamactor.production.make import make_engines, up_to_date
from dreamactor.production.report import Row
from dreamactor.production.request import make_request
from dreamactor.production.stages import Stages
from dreamactor.production.video_quality import VideoQuality


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


@pytest.fixture
def row(tiny_engines: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Row]:
    """That of a denoiser in FP16, whose gate is 30 dB, for what its engine was found to be."""
    manifest = read_manifest(tiny_engines)
    half = replace(manifest.network("denoiser"), precision="fp16")
    manifest = replace(manifest, networks={"denoiser": half})
    verdict = Verdict(VideoQuality(35.0, (35.0,), (0.9,)), {"denoiser": 41.0}, None)

    def entry(size: int, **facts: object) -> SimpleNamespace:
        return SimpleNamespace(bytes=size, facts={"put_back": [], "snr_db": 50.0, **facts}, paths=[None], seconds=1.0)

    def measured(found: Comparison, **facts: object) -> Row:
        keys = SimpleNamespace(recipe=Recipe("fp16", high="fp16", snr_gate=30.0))
        stages = SimpleNamespace(onnx=lambda name: entry(100), on_progress=lambda *values: None, keys=keys)
        monkeypatch.setattr(measuring, "verify_engine", lambda *values: found)
        lowered, engines = {"denoiser": entry(60, **facts)}, {"denoiser": entry(40, **facts)}
        (made,) = measuring.measure(stages, tiny_engines, manifest, lowered, engines, verdict)  # type: ignore[arg-type]
        return made

    return measured


def test_a_row_is_what_was_measured(row: Callable[..., Row]) -> None:
    found = row(Comparison("denoiser", 2.0, 3.0, 31.0))
    assert (found.latency_ms, found.reference_ms, found.snr_db, found.video_psnr_db) == (2.0, 3.0, 31.0, 41.0)
    assert (found.bytes, found.onnx_bytes, found.source_bytes) == (40, 60, 100)
    assert (found.passed, found.ran) == (True, True)


@pytest.mark.parametrize(
    ("found", "facts"),
    [
        (Comparison("denoiser", 2.0, 3.0, 29.0), {}),
        (Comparison("denoiser", 2.0, 3.0, 31.0), {"passed": False}),
        (Comparison("denoiser", None, None, None, "denoiser was built elsewhere"), {}),
    ],
    ids=["it misses its gate", "lowering missed it", "it did not run"],
)
def test_an_engine_fails(row: Callable[..., Row], found: Comparison, facts: dict[str, object]) -> None:
    assert not row(found, **facts).passed
