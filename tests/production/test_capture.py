"""Recorded inputs: of every clip, reference and timestep, not of those that came first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy

from dreamactor.engines.session import Array, Session
from dreamactor.export.quantize import prepare
from dreamactor.motion.prepare import MotionInputs
from dreamactor.pipeline.options import Options
from dreamactor.presets import preset
from dreamactor.production.capture import record
from dreamactor.production.request import make_request
from dreamactor.production.sources import clips
from dreamactor.production.stages import CALIBRATED, JUDGED, Stages, open_onnx

TINY, COUNT = preset("tiny"), 5
OPTIONS = Options(seed=7, steps=COUNT)  # so that the first clip alone has enough for the denoiser
Recorded = dict[str, list[dict[str, Array]]]


@pytest.fixture(scope="module")
def sessions(tiny_onnx: dict[str, Path]) -> Iterator[dict[str, Session]]:
    opened = {name: open_onnx(path, name) for name, path in tiny_onnx.items()}
    yield opened
    for session in opened.values():
        session.close()


@pytest.fixture(scope="module")
def inputs() -> list[MotionInputs]:
    """Three clips of two references each."""
    drawn = clips(TINY, range(6), 9)
    return [
        replace(
            clip,
            references=np.concatenate([clip.references, other.references]),
            reference_controls=np.concatenate([clip.reference_controls, other.reference_controls]),
        )
        for clip, other in zip(drawn[:3], drawn[3:], strict=True)
    ]


@pytest.fixture(scope="module")
def recorded(sessions: dict[str, Session], inputs: list[MotionInputs]) -> Recorded:
    return record(sessions, TINY, [(clip, OPTIONS) for clip in inputs], COUNT)


@pytest.fixture(scope="module")
def alone(sessions: dict[str, Session], inputs: list[MotionInputs]) -> list[Recorded]:
    """All that each clip by itself gives the networks."""
    return [record(sessions, TINY, [(clip, OPTIONS)], 1000) for clip in inputs]


def is_among(feed: dict[str, Array], others: list[dict[str, Array]]) -> bool:
    return any(all(np.array_equal(value, other[name]) for name, value in feed.items()) for other in others)


def test_every_network_has_inputs_of_several_clips(recorded: Recorded, alone: list[Recorded]) -> None:
    for name, feeds in recorded.items():
        found = [[is_among(feed, clip[name]) for clip in alone] for feed in feeds]
        assert all(sum(clips) == 1 for clips in found), name
        assert [clips.index(True) for clips in found[:3]] == [0, 1, 2], name  # of each in turn
        assert len(feeds) == min(COUNT, sum(len(clip[name]) for clip in alone))


def test_the_denoiser_has_several_timesteps_and_references(recorded: Recorded) -> None:
    assert len({float(feed["timestep"][0]) for feed in recorded["denoiser"]}) > 1
    assert len({feed["reference_latent"].tobytes() for feed in recorded["denoiser"]}) > 1
    assert {feed["reference_latent"].shape[1] for feed in recorded["denoiser"]} == {2}


def test_the_encoder_has_more_than_the_first_reference_of_a_clip(
    recorded: Recorded, inputs: list[MotionInputs]
) -> None:
    pictures = [feed["video"][0, :, 0].transpose(1, 2, 0) for feed in recorded["vae_encoder"]]
    places = {
        place
        for clip in inputs
        for place, reference in enumerate(clip.references)
        if any(np.array_equal(reference, picture) for picture in pictures)
    }
    assert places == {0, 1}


def test_what_calibrates_has_several_photos_lengths_timesteps_and_guidances(
    sessions: dict[str, Session], tmp_path: Path, tiny_onnx: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request("tiny", "int8", "sm89", output=tmp_path / "set", store=tmp_path / "store")
    stages = Stages(request, lambda what, done, total: None)
    monkeypatch.setattr(stages, "open", lambda entries, opened: sessions)
    monkeypatch.setattr(stages, "onnx", lambda name: None)
    stages.samples()
    feeds = [safetensors.numpy.load_file(path) for path in stages.feeds("denoiser").paths]
    assert len(feeds) == request.samples
    assert {feed["reference_latent"].shape[1] for feed in feeds} == {1, 2, 3}
    assert {float(feed["guidance_scale"][0]) for feed in feeds} == {TINY.guidance_scale, 2.0, 1.0}
    assert len({float(feed["timestep"][0]) for feed in feeds}) >= 4
    assert any(feed["known"].any() for feed in feeds)  # of a segment that goes on from another


def test_the_judged_clip_is_none_that_was_calibrated_on() -> None:
    assert JUDGED not in range(len(CALIBRATED))


def test_what_is_lowered_is_the_rewritten_graph_and_compared_on_what_no_range_saw(
    tmp_path: Path, tiny_store: Path
) -> None:
    request = make_request("tiny", "int8", "cpu", output=tmp_path / "set", store=tiny_store)
    stages = Stages(request, lambda what, done, total: None)
    prepared, _, feed = stages.ingredients("denoiser")
    rewritten = prepare(onnx.load(stages.source("denoiser").paths[0]), stages.keys.recipe)
    assert [node.op_type for node in prepared.graph.node] == [node.op_type for node in rewritten.graph.node]
    samples = stages.feeds("denoiser")
    seen = list(samples.calibration.feeds())
    assert len(seen) == len(samples.paths) - 1
    assert is_among(feed, [dict(samples.held_out)])
    assert not is_among(feed, [dict(each) for each in seen])
