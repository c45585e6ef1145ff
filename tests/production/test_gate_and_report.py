"""Video quality, the report and what a request refuses: everything that needs no build."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dreamactor.errors import EngineError, InputError
from dreamactor.presets import preset
from dreamactor.production import plan as planning
from dreamactor.production.gate import Verdict
from dreamactor.production.keys import Keys
from dreamactor.production.make import up_to_date
from dreamactor.production.plan import check_disk, check_memory, plan
from dreamactor.production.report import Row, from_json, table, to_json
from dreamactor.production.report_page import to_html
from dreamactor.production.request import Request, make_request
from dreamactor.production.sources import CHARACTERS, NOISE, clips, origin
from dreamactor.production.stages import Stages
from dreamactor.production.video_quality import VideoQuality, compare


def request(tmp_path: Path, precision: str = "int8", target: str = "cpu") -> Request:
    return make_request("tiny", precision, target, output=tmp_path / "set", store=tmp_path / "store")


def video(seed: int = 0) -> np.ndarray:
    steps = np.random.default_rng(seed).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    return steps.repeat(8, 1).repeat(8, 2)


def test_videos_are_compared_frame_by_frame() -> None:
    reference, found = video(), video()
    found[1] = 255 - found[1]
    quality = compare(reference, found)
    assert quality.psnr[0] == quality.psnr[2] == 100.0
    assert quality.psnr[1] < 15
    assert quality.whole_psnr < quality.psnr[1] + 5  # however many frames are the same
    with pytest.raises(ValueError, match="different shape"):
        compare(reference, found[:2])


@pytest.mark.parametrize(("gate", "passed"), [(32.0, False), (30.0, True), (None, True)])
def test_verdict_holds_the_video_to_its_gate(gate: float | None, passed: bool) -> None:
    assert Verdict(VideoQuality(31.0, (31.0,), (0.9,)), {"denoiser": 31.0}, gate).passed is passed


@pytest.mark.parametrize(
    ("precision", "target", "reason"),
    [
        ("fp8", "sm86", "fp8 needs SM89 or later, and sm86 is SM86"),
        ("bf16", "sm75", "bf16 needs SM80"),
        ("bf16", "cpu", "no BF16 on the CPU"),
        ("fp16", "sm99", "no target 'sm99'"),
    ],
)
def test_precisions_a_target_lacks_are_refused(tmp_path: Path, precision: str, target: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        request(tmp_path, precision, target)


def test_keys_change_with_what_they_stand_for_and_only_then(tmp_path: Path) -> None:
    int8, again = Keys(request(tmp_path)), Keys(request(tmp_path))
    assert int8.precision("denoiser") == again.precision("denoiser")
    fp8 = Keys(request(tmp_path, "fp8", "sm89"))
    assert fp8.onnx("denoiser") == int8.onnx("denoiser")
    assert fp8.precision("denoiser") != int8.precision("denoiser")
    ada = fp8.engine("denoiser", fp8.precision("denoiser"), "1.7")
    blackwell = Keys(request(tmp_path, "fp8", "sm120")).engine("denoiser", fp8.precision("denoiser"), "1.7")
    assert ada != blackwell
    assert ada != fp8.engine("denoiser", fp8.precision("denoiser"), "1.8")
    assert ada != fp8.engine("denoiser", fp8.precision("denoiser", ("transformer.blocks.0.ffn.0",)), "1.7")


def test_too_little_memory_is_refused_with_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = make_request("m1", "fp8", "sm89", output=tmp_path / "set", store=tmp_path / "store")
    stages = Stages(large, lambda what, done, total: None)
    monkeypatch.setattr(planning, "available_memory", lambda: 8 * 2**30)
    with pytest.raises(EngineError, match=r"GB of FP32 weights: up to \d+\.\d GiB of memory are needed, and 8.0 GiB"):
        check_memory(stages)
    monkeypatch.setattr(planning, "available_memory", lambda: 2**40)
    assert "GB of FP32 weights" in check_memory(stages)


def test_too_little_disk_is_refused_with_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = make_request("m1", "fp8", "sm89", output=tmp_path / "set", store=tmp_path / "store")
    stages = Stages(large, lambda what, done, total: None)
    steps = plan(stages)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=50e9))
    with pytest.raises(EngineError, match=rf"up to 57.3 GB of disk, and 50.0 GB are free at {tmp_path}: make room"):
        check_disk(stages, steps)
    exported = [replace(step, cached=step.cached or step.stage == "onnx") for step in steps]
    assert check_disk(stages, exported) == "up to 26.2 GB of disk"


def test_a_set_that_was_never_finished_is_not_up_to_date(tmp_path: Path) -> None:
    asked = request(tmp_path)
    assert up_to_date(asked) is None
    (tmp_path / "set").mkdir()
    (tmp_path / "set/report.json").write_text('{"key": "other", "networks": []}')
    assert up_to_date(asked) is None


ROW = Row(
    "denoiser", "fp8", 2_500_000, 900_000, 3_000_000, None, 12.0, 21.5, 33.1, False, "not run here: <no GPU>",
    ("transformer.blocks.0.ffn.0",),
    {"fused_attention": ["Ada_qmma_e4m3_fp32_traits"], "bytes_before_repair": 800_000, "snr_before_repair_db": 9.5},
)  # fmt: skip
SUMMARY = {"preset": "tiny", "precision": "fp8", "target": "sm89", "passed": False}


def test_table_has_size_error_verdict_and_what_was_put_back() -> None:
    text = table([ROW])
    for part in ("2.50 MB", "30 %", "21.5 dB", "33.1 dB", "FAIL", "e4m3", "<no GPU>"):
        assert part in text
    assert "transformer.blocks.0.ffn.0 (before: ONNX 0.80 MB, SNR 9.5 dB)" in text


def test_what_was_not_built_or_not_measured_is_said() -> None:
    facts = {
        "no_plugin": "ptxas <stdin>\nfailed", "no_native": "", "layer_snr_db": {"a": 1.0, "b": 2.0},
        "layers_unmeasured": 3,
    }  # fmt: skip
    other = replace(
        ROW, network="vae_encoder", facts={"no_plugin": "no attention", "no_native": "gave up"}, put_back=()
    )
    rows = [replace(ROW, facts=facts, put_back=()), other]
    found = [
        "not run here: <no GPU>",
        "denoiser: without our attention kernels: ptxas <stdin> failed",
        "denoiser: error layer by layer of the first 2 alone: 3 more are not measured",
        "vae_encoder: not built with TensorRT's own attention: gave up",
    ]
    assert [line.strip() for line in table(rows).splitlines()[3:]] == found
    page = to_html(SUMMARY, rows)
    assert page.count("<li>") == len(found)
    assert "<li>denoiser: without our attention kernels: ptxas &lt;stdin&gt; failed</li>" in page


@pytest.mark.parametrize(
    ("passed", "ran", "verdict", "style"),
    [(True, True, "pass", "ok"), (True, False, "not run", "idle"), (False, False, "FAIL", "bad")],
)
def test_an_engine_that_did_not_run_has_not_passed(passed: bool, ran: bool, verdict: str, style: str) -> None:
    row = replace(ROW, passed=passed, ran=ran)
    assert table([row]).splitlines()[1].endswith(f"  {verdict}")
    assert f"<tr class={style}>" in to_html(SUMMARY, [row])
    assert "<li>not run here: &lt;no GPU&gt;</li>" in to_html(SUMMARY, [row])


def test_the_page_shows_the_verdict_the_video_frame_by_frame_and_the_worst_layers_first() -> None:
    plain = to_html(SUMMARY, [ROW])
    assert "<b>did not pass</b>" in plain
    assert "<svg" not in plain
    assert "Layer by layer" not in plain
    video = {
        "video_psnr_db": 37.8, "video_ssim": 0.99, "video_worst_frame_psnr_db": 33.1, "video_worst_frame_ssim": 0.98,
        "video_gate_db": 32.0, "video_psnr_before_repair_db": None, "video_psnr_frames_db": [40.0, 33.1, 39.0],
    }  # fmt: skip
    row = replace(ROW, facts={"layer_snr_db": {"good": 40.0, "bad": 9.0, "lost": None, "fair": 20.0}}, put_back=())
    page = to_html({**SUMMARY, **video, "passed": True, "rehearsed": "", "made": "today"}, [row])
    assert "<b>passed</b>" in page
    assert "<p>video against FP32: 37.8 dB PSNR, SSIM 0.9900; its worst frames 33.1 dB, 0.9800 (gate 32 dB)</p>" in page
    assert "gate 32<" in page
    heights = [float(point.partition(",")[2]) for point in page.partition("points='")[2].partition("'")[0].split()]
    assert sorted(heights) == [heights[0], heights[2], heights[1]]  # y points down
    places = [page.index(f"<td>{name}</td>") for name in ("lost", "bad", "fair", "good")]
    assert places == sorted(places)
    assert "denoiser: 4 layers, the worst -" in page
    assert "<dt>made</dt><dd>today</dd>" in page


def test_report_is_json_and_a_page_that_escapes_what_it_shows() -> None:
    read = json.loads(to_json(SUMMARY, [ROW]))
    assert read["networks"][0]["network"] == "denoiser"
    assert read["passed"] is False
    page = to_html(SUMMARY, [ROW])
    assert "&lt;no GPU&gt;" in page
    assert "<no GPU>" not in page
    assert "class='bad'" in page
    assert from_json(to_json(SUMMARY, [ROW])) == (SUMMARY, [ROW])
    for text in ("[]", "3", '"x"', "{}", '{"networks": [{}]}'):
        with pytest.raises((ValueError, KeyError, TypeError)):
            from_json(text)


def test_without_motion_capture_noise_is_used_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Keys(request(tmp_path)).samples()
    monkeypatch.setenv("DREAMACTOR_ASSETS", str(tmp_path))
    assert origin() == NOISE
    assert Keys(request(tmp_path)).samples() != known
    assert [inputs.controls.shape for inputs in clips(preset("tiny"), [3], 9)] == [(9, 64, 64, 6)]


def test_clips_to_calibrate_on_have_the_presets_size() -> None:
    tiny = preset("tiny")
    assert origin() == CHARACTERS
    for inputs in clips(tiny, range(2), 9):
        assert inputs.controls.shape == (9, 64, 64, 6)
        assert inputs.faces.shape == (9, 224, 224, 3)
        assert inputs.references.shape == (1, 64, 64, 3)
        assert inputs.controls.any()
