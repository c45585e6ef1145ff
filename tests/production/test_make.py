"""`make engines` for real: tiny networks, every stage, twice."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dreamactor import production
from dreamactor.engines import open_engines, read_manifest
from dreamactor.errors import EngineError
from dreamactor.export import recipes
from dreamactor.export.recipe import Recipe
from dreamactor.production.make import Result, make_engines
from dreamactor.production.report import Row
from dreamactor.production.request import make_request
from dreamactor.production.stages import Stages
from dreamactor.production.verify import verify_set
from tests.engines.test_builder import needs_rtx

SELF_ATTENTION = ("transformer.blocks.0.attention", "transformer.blocks.1.attention")
Facts = Mapping[str, Any]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all of them: exports and recordings are shared, as they are for a user."""
    return tmp_path_factory.mktemp("store")


def make(store: Path, output: Path, precision: str, target: str) -> tuple[Result, list[str], list[str]]:
    request = make_request("tiny", precision, target, output=output, store=store)
    lines: list[str] = []
    stages: list[str] = []
    result = make_engines(request, lines.append, lambda what, done, total: stages.append(what))
    return result, lines, stages


def test_int8_on_the_cpu_is_built_then_found_in_under_two_seconds(store: Path, tmp_path: Path) -> None:
    result, lines, stages = make(store, tmp_path / "set", "int8", "cpu")
    assert result.built
    assert result.passed
    assert any("exporting denoiser" in stage for stage in stages)
    assert "denoiser" in "\n".join(lines)
    with open_engines(tmp_path / "set", threads=1) as engines:
        assert len(engines.sessions) == 5
        assert engines.manifest.precision == "int8"
    report = json.loads((tmp_path / "set/report.json").read_text())
    sizes = {row["network"]: row["bytes"] / row["source_bytes"] for row in report["networks"]}
    assert sizes["denoiser"] < 0.8
    assert report["video_psnr_db"] > 30
    assert report["video_worst_frame_ssim"] == min(report["video_ssim_frames"]) <= report["video_ssim"]
    assert f"{report['video_worst_frame_ssim']:.4f}" in result.text
    page = (tmp_path / "set/report.html").read_text()
    assert f"its worst frames {report['video_worst_frame_psnr_db']:.1f} dB" in page
    assert "<table>" in page
    assert verify_set(tmp_path / "set").passed

    started = time.process_time()
    again, _, stages = make(store, tmp_path / "set", "int8", "cpu")
    assert time.process_time() - started < 2  # of processor time: other work on the machine does not count
    assert not again.built
    assert again.text == result.text
    assert stages == []


def test_a_set_that_is_made_twice_at_once_is_not_taken_from_who_reads_the_first(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, first = production.make.measure, list[int]()

    def overtaken(*arguments: Any) -> list[Row]:
        monkeypatch.setattr(production.make, "measure", measure)
        assert make(store, tmp_path / "set", "fp32", "cpu")[0].built
        first.append((tmp_path / "set/manifest.json").stat().st_ino)
        return measure(*arguments)

    monkeypatch.setattr(production.make, "measure", overtaken)
    assert make(store, tmp_path / "set", "fp32", "cpu")[0].passed
    assert first == [(tmp_path / "set/manifest.json").stat().st_ino]


@needs_rtx
@pytest.mark.parametrize("target", ["sm89", "sm120"])
@pytest.mark.parametrize("precision", ["fp16", "fp8", "int8"])
def test_all_five_networks_build_for_rtx_cards(store: Path, tmp_path: Path, precision: str, target: str) -> None:
    result, _, _ = make(store, tmp_path / "set", precision, target)
    assert result.passed
    manifest = read_manifest(tmp_path / "set")
    assert len(manifest.networks) == 5
    assert all(record.architecture == target for record in manifest.networks.values())
    report = {row["network"]: row for row in json.loads((tmp_path / "set/report.json").read_text())["networks"]}
    fused = report["denoiser"]["facts"]["fused_attention"]
    assert any(("e4m3" if precision == "fp8" else "fp16") in kernel for kernel in fused)
    if precision != "fp16":
        assert report["denoiser"]["facts"]["layers"]["QUANTIZE"] > 0
    assert all(row["facts"]["layer_snr_db"] for row in report.values())
    assert not any(row["ran"] for row in report.values())
    assert "5 of 5 engines did not run here" in result.text
    with pytest.raises(EngineError, match=f"built for {target}; this machine"):
        open_engines(tmp_path / "set")


def built(store: Path, precision: str, target: str, put_back: tuple[str, ...] = ()) -> tuple[Facts, Facts]:
    """What is known of the tiny denoiser's ONNX and of its engine."""
    request = make_request("tiny", precision, target, output=store.parent / "set", store=store)
    stages = Stages(request, lambda what, done, total: None)
    lowered = stages.precision("denoiser", put_back)
    engine = stages.engine("denoiser", lowered)
    assert lowered.facts["passed"]
    assert lowered.facts["put_back"] == list(put_back)
    assert engine.bytes > 10_000
    return lowered.facts, engine.facts


@needs_rtx
@pytest.mark.parametrize("target", ["sm75", "sm80", "sm86", "sm121"])
def test_the_denoiser_builds_for_every_rtx_architecture(store: Path, target: str) -> None:
    _, engine = built(store, "fp16", target)
    assert any("fp16" in kernel for kernel in engine["fused_attention"])
    assert not any("already exists" in text for text in engine["warnings"])


@needs_rtx
@pytest.mark.parametrize(("precision", "put_back"), [("int8", ()), ("fp16", SELF_ATTENTION[:1])])
def test_turing_has_int8_and_outlives_a_repair(store: Path, precision: str, put_back: tuple[str, ...]) -> None:
    _, engine = built(store, precision, "sm75", put_back)
    assert (engine["layers"].get("QUANTIZE", 0) > 0) is (precision == "int8")


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "put_back", "fused"),
    [("fp16", SELF_ATTENTION[:1], "fp16"), ("fp8", SELF_ATTENTION[:1], "e4m3"), ("fp8", SELF_ATTENTION, "fp16")],
)
def test_engines_build_with_attention_put_back(
    store: Path, precision: str, put_back: tuple[str, ...], fused: str
) -> None:
    """FP32 attention would crash the builder as one operator; FP8's is not looked for where none is left."""
    lowered, engine = built(store, precision, "sm89", put_back)
    assert lowered["fused_type"] == fused.replace("e4m3", "fp8")
    assert any(fused in kernel for kernel in engine["fused_attention"])
    assert any("e4m3" in kernel for kernel in engine["fused_attention"]) is (fused == "e4m3")


@needs_rtx
def test_a_set_says_where_ranges_are_not_the_recipe_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamactor.export.calibrate.is_large", lambda model: True)
    result, _, _ = make(tmp_path / "store", tmp_path / "set", "int8", "sm89")
    assert result.passed
    for record in read_manifest(tmp_path / "set").networks.values():
        assert "activation ranges by max, too large for entropy" in record.notes


def test_spoiled_recipe_misses_the_gate_and_is_repaired(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that the recipe cannot reach as it is: modules are put back, worst first, and the report says which."""
    demanding = Recipe("int8", quantized="int8", ranges="max", psnr_gate=30.0, snr_gate=33.0)
    monkeypatch.setattr(recipes.int8, "CPU", demanding)
    result, _, stages = make(store, tmp_path / "set", "int8", "cpu")
    assert result.passed
    rows = json.loads((tmp_path / "set/report.json").read_text())["networks"]
    repaired = [row for row in rows if row["put_back"]]
    assert repaired
    for row in repaired:
        assert row["facts"]["snr_before_repair_db"] < 33 <= row["facts"]["snr_db"]
        assert row["put_back"][0] in result.text
    assert any("module by module" in stage for stage in stages)
