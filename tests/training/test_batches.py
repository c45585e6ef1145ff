"""What batches are made of: each thing drawn as often as it should be, from everywhere, and whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamactor.networks import build
from dreamactor.presets import preset
from dreamactor.training.expression_stage import expression_batch
from dreamactor.training.flow_stage import draw_references, flow_batch
from dreamactor.training.latents import set_statistics, vae_fingerprint
from dreamactor.training.recipe import Recipe
from dreamactor.training.vae_stage import face_mask, to_video, vae_batch
from tests.training.helpers import encoded, named, train_clips


def test_clips_with_large_heads_are_drawn_more_often(clips: Path) -> None:
    drawn = train_clips(clips)
    rows = drawn.draw(np.random.default_rng(0), drawn.pictures.ready, 6000)
    size = np.asarray(drawn.store.heads[:3][..., 2], float).mean(1)
    assert np.bincount(rows, minlength=3) / 6000 == pytest.approx(size / size.sum(), abs=0.02)
    assert np.ptp(size / size.sum()) > 0.05
    assert set(drawn.draw(np.random.default_rng(0), drawn.pictures.ready[:2], 50)) == {0, 1}


def test_a_clip_and_its_weights_are_mirrored_left_to_right_together(clips: Path) -> None:
    drawn = train_clips(clips)
    drawn.pictures.ready, length = np.array([0]), drawn.store.frames.shape[1]
    frames, heads, mouths = (drawn.pictures.whole(name, np.array([0])) for name in ("frames", "heads", "mouths"))
    grey = to_video(frames)[0].sum(0)  # whose colours may change places
    mask = face_mask(heads, mouths, drawn.store.height, drawn.store.width)[0]
    video, weight = vae_batch(drawn, np.random.default_rng(0), 1 + length // 4, 12)
    seen = set()
    for made, weights in zip(video.sum(1), weight, strict=True):
        mirrored = not torch.allclose(made, grey, atol=1e-4)
        torch.testing.assert_close(made, grey.flip(-1) if mirrored else grey, atol=1e-4, rtol=0)
        assert torch.equal(weights, mask.flip(-1) if mirrored else mask)
        seen.add(mirrored)
    assert seen == {False, True}


def test_references_are_of_one_performance_mostly_another() -> None:
    drawn = draw_references(np.random.default_rng(0), 4000, 2)
    assert (drawn[:, 0] != drawn[:, 1]).all()
    assert ((drawn >= 3).all(1) | (drawn < 3).all(1)).all()
    assert (drawn >= 3).mean() == pytest.approx(0.6, abs=0.03)


def test_carried_windows_begin_everywhere(encoded_clips: Path, quick: Recipe) -> None:
    clips, _ = encoded(encoded_clips)
    assert clips.latents is not None
    shape = clips.latents.arrays["video"].shape
    number = np.arange(shape[1], dtype=np.float16)[None, :, None, None, None]
    clips.latents.arrays = {**clips.latents.arrays, "video": np.broadcast_to(number, shape)}
    stage = replace(named(quick, "all"), carried=1.0, face=False)
    batches = [flow_batch(clips, np.random.default_rng(seed), stage, 2, 8) for seed in range(20)]
    assert {int(first) for batch in batches for first in batch.latent[:, 0, 0, 0, 0]} == set(range(1, shape[1] - 1))


def test_expressions_are_in_deviations_of_any_frames(clips: Path) -> None:
    drawn = train_clips(clips)
    mean, deviation = drawn.store.expression_statistics
    stored = (np.array(drawn.store.expressions[:]) - mean) / deviation
    _, found = expression_batch(drawn, np.random.default_rng(1), 4, 12)
    same = np.isclose(found.numpy()[:, 0, None, None], stored, atol=1e-4, equal_nan=True).all(-1)
    assert same.any((1, 2)).all()
    assert not same[:, :, 0].any(1).all()  # of a clip's first frame


def test_clean_faces_come_first_and_disturbed_ones_later(clips: Path) -> None:
    drawn = train_clips(clips)
    clean, still_clean, disturbed = (
        expression_batch(drawn, np.random.default_rng(1), 1, 4, progress)[0] for progress in (0.0, 0.3, 1.0)
    )
    assert torch.equal(clean, still_clean)
    assert not torch.equal(clean, disturbed)


def test_latents_have_no_mean_and_a_deviation_of_one(clips: Path) -> None:
    drawn, networks = train_clips(clips), build(preset("tiny"), 0)
    before = vae_fingerprint(networks)
    set_statistics(networks, drawn)
    assert vae_fingerprint(networks) != before
    with torch.no_grad():
        videos = [to_video(drawn.pictures.whole("frames", np.array([row]))) for row in range(3)]
        values = torch.cat([networks.vae.latent(video) for video in videos]).transpose(0, 1).flatten(1)
    assert values.mean(1).numpy() == pytest.approx(np.zeros(16), abs=0.01)
    assert values.std(1).numpy() == pytest.approx(np.ones(16), abs=0.01)
