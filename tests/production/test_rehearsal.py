"""A preset too large for a CPU is recorded and judged on a smaller picture; the others as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dreamactor.engines.sets import read_manifest
from dreamactor.export.calibrate import load_samples
from dreamactor.networks import build, save
from dreamactor.presets import PRESETS, preset
from dreamactor.production.make import make_engines
from dreamactor.production.rehearsal import STEP, describe, operations, rehearsal
from dreamactor.production.request import make_request
from dreamactor.production.stages import Stages

M1 = PRESETS["m1"]


@pytest.mark.parametrize("name", ["tiny", "puppet"])
def test_a_small_preset_is_its_own_rehearsal(name: str) -> None:
    assert rehearsal(preset(name)) == preset(name)
    assert describe(preset(name)) == ""


def test_m1_is_rehearsed_at_a_size_that_a_cpu_can_wait_for() -> None:
    small = rehearsal(M1)
    assert operations(M1) > 100 * STEP >= 100 * operations(small)
    assert small.height % 16 == small.width % 16 == 0
    assert small.width / small.height == pytest.approx(M1.width / M1.height, rel=0.15)
    assert replace(small, height=M1.height, width=M1.width, segment_frames=M1.segment_frames, steps=M1.steps) == M1
    assert f"{small.width}x{small.height}" in describe(M1)


def test_operations_are_those_of_the_transformer() -> None:
    from dreamactor.networks import build_meta

    for sizes in (preset("puppet"), M1):
        weights = sum(weight.numel() for weight in build_meta(sizes).transformer.parameters())
        network = sizes.transformer
        assert network.depth * network.dim**2 * (8 + 2 * network.ffn_ratio) == pytest.approx(weights, rel=0.2)
    assert operations(M1) == 2 * operations(replace(M1, guidance_scale=1.0))


@pytest.mark.slow
def test_engines_of_a_large_preset_are_judged_on_the_smaller_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = replace(preset("tiny"), name="large", height=128, width=192, steps=6)
    save(build(large), tmp_path / "checkpoint")
    monkeypatch.setattr("dreamactor.production.rehearsal.STEP", operations(large) / 3)
    small = rehearsal(large)
    assert (small.height, small.width, small.steps) == (64, 96, 4)

    request = make_request("large", "int8", "cpu", tmp_path / "checkpoint", tmp_path / "set", tmp_path / "store")
    lines: list[str] = []
    result = make_engines(replace(request, checkpoint=None), lines.append)

    assert result.passed
    report = json.loads((tmp_path / "set" / "report.json").read_text())
    assert "96x64" in report["rehearsed"]
    assert "96x64" in result.text
    recorded = load_samples(Stages(replace(request, checkpoint=None), lambda *_: None).samples().folder, "denoiser")
    assert next(iter(recorded.feeds()))["latent"].shape[-2:] == (8, 12)
    assert read_manifest(tmp_path / "set").preset == large
