"""The decoder's own stage: what it is given, what it changes, and samples that stand beside their own frames."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamactor.networks import Networks, build, load
from dreamactor.presets import preset
from dreamactor.training import parallel, vae_stage
from dreamactor.training.decoder_stage import sample_clips, sampled_batch, sampled_loss
from dreamactor.training.device_clips import Shelf
from dreamactor.training.train import CHECKPOINT
from dreamactor.training.vae_stage import KL_WEIGHT, to_video, vae_batch, vae_loss
from tests.training.helpers import CPU, encoded, train_clips

NewRun = Callable[[str], Path]


def test_the_decoder_goes_on_under_a_fixed_encoder(legs: dict[str, Path]) -> None:
    old, new = (load(legs[name] / CHECKPOINT, preset("tiny")).state_dict() for name in ("rollout", "decoder"))
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed
    assert all(name.startswith("vae.decoder.") for name in changed)


def test_its_log_has_what_each_kind_of_step_has(legs: dict[str, Path]) -> None:
    """Steps on sampled latents have no divergence from a prior."""
    with (legs["decoder"] / "log_decoder.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {bool(row["kl"]) for row in rows} == {True, False}
    assert all(float(row["loss"]) > 0 for row in rows)


def test_the_decoder_is_trained_on_what_it_will_be_given(clips: Path) -> None:
    drawn, networks = train_clips(clips), build(preset("tiny"), 0)
    video, weight = vae_batch(drawn, np.random.default_rng(0), 1, 2)

    def psnr() -> float:
        return vae_loss(networks, video, weight, np.random.default_rng(0), torch.Generator().manual_seed(0))[1][
            "psnr"
        ].item()

    before = psnr()
    networks.vae.set_statistics(torch.full((16,), 0.5), torch.full((16,), 3.0))  # what latents are normalised by
    assert psnr() == before


def test_noise_on_latents_is_what_the_decoder_is_asked_to_undo(clips: Path) -> None:
    drawn, networks = train_clips(clips), build(preset("tiny"), 0)
    networks.vae.set_statistics(torch.zeros(16), torch.full((16,), 10.0))
    video, weight = vae_batch(drawn, np.random.default_rng(0), 2, 2)

    def loss(latent_noise: float) -> float:
        random = np.random.default_rng(0), torch.Generator().manual_seed(0)
        return float(vae_loss(networks, video, weight, *random, latent_noise)[0].detach())

    assert loss(0.0) == loss(0.0) != loss(0.5)


def test_noise_is_as_large_as_latents_are(clips: Path) -> None:
    drawn, networks = train_clips(clips), build(preset("tiny"), 0)
    video, weight = vae_batch(drawn, np.random.default_rng(0), 2, 2)
    seen: list[torch.Tensor] = []
    networks.vae.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    for scale in (1.0, 10.0):
        networks.vae.set_statistics(torch.zeros(16), torch.full((16,), scale))
        for noise in (0.0, 0.5):
            vae_loss(networks, video, weight, np.random.default_rng(0), torch.Generator().manual_seed(0), noise)
    torch.testing.assert_close(seen[3] - seen[2], 10 * (seen[1] - seen[0]), rtol=1e-3, atol=1e-3)


@pytest.fixture
def numbered() -> tuple[Networks, torch.Tensor]:
    """Frames [1,3,13,16,16] that hold their number, and networks whose VAE encodes them to latents that hold theirs,
    and decodes a latent to the frames that it stands for."""
    networks = build(preset("tiny"), 0)

    def encode(video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = torch.arange(4.0)[None, None, :, None, None].expand(1, 16, -1, 2, 2)
        return mean, torch.full_like(mean, -60.0)

    def decode(latent: torch.Tensor) -> torch.Tensor:
        first, *others = latent[0, 0, :, 0, 0].round()
        frames = torch.cat([4 * first[None], *(4 * number + torch.arange(-3, 1) for number in others)])
        return frames[None, None, :, None, None].expand(1, 3, -1, 16, 16) / 100

    networks.vae.encode, networks.vae.decoder.forward = encode, decode
    return networks, torch.arange(13)[None, None, :, None, None].expand(1, 3, -1, 16, 16) / 100


def test_a_window_that_begins_within_a_clip_has_its_own_frames(
    numbered: tuple[Networks, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vae_stage, "CARRIED", 1.0)
    networks, video = numbered
    loss, logged = vae_loss(networks, video, torch.ones_like(video[:, :1]), np.random.default_rng(0), torch.Generator())
    assert logged["psnr"] > 100
    assert float(loss) == pytest.approx(KL_WEIGHT * float(logged["kl"]))


def test_a_window_of_samples_meets_its_own_frames(numbered: tuple[Networks, torch.Tensor]) -> None:
    networks, video = numbered
    latent = torch.arange(1.0, 4.0)[None, None, :, None, None].expand(1, 16, -1, 2, 2)
    assert float(sampled_loss(networks, latent, video[:, :, 5:], torch.ones_like(video[:, :1, 5:]))[0]) == 0


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_sampled_latents_stand_beside_their_own_frames(new_run: NewRun, frames: int) -> None:
    clips = train_clips(new_run("windows"))
    store = clips.store
    place = 10 * np.arange(store.count)[:, None] + np.arange(3)  # each latent says where it is from
    grid = np.ones((16, store.height // 8, store.width // 8), np.float16)
    clips.sampled = Shelf({"video": place[..., None, None, None].astype(np.float16) * grid}, CPU)
    clips.sampled.add(np.arange(store.count))

    for seed in range(8):
        latent, video, weight = sampled_batch(clips, np.random.default_rng(seed), frames, 2)
        for row in range(2):
            clip, start = divmod(int(latent[row, 0, 0, 0, 0]), 10)
            assert [int(value) for value in latent[row, 0, :, 0, 0]] == [10 * clip + start + i for i in range(frames)]
            first = 4 * start + 1 if start else 0
            truth = np.array(store.frames[clip, first : 4 * (start + frames - 1) + 1])
            assert torch.equal(video[row], to_video(torch.from_numpy(truth[None]))[0])
        assert weight.shape == (2, 1, *video.shape[2:])
        assert torch.isfinite(sampled_loss(build(preset("tiny")), latent, video, weight)[0])


@pytest.mark.parametrize("part", ["transformer.final", "pose_encoder", "face_encoder"])
def test_clips_are_sampled_anew_where_what_samples_them_is_another(new_run: NewRun, part: str) -> None:
    clips, networks = encoded(new_run("sampled"))

    def made() -> np.ndarray:
        sample_clips(networks, clips, 2, False, parallel.start())
        assert clips.sampled is not None
        assert clips.sampled.ready.tolist() == [0, 1]
        return np.array(clips.sampled.arrays["video"])

    first = made()
    assert np.isfinite(first).all()
    assert first.std() > 0.1
    assert clips.sampled is not None
    clips.sampled.arrays["video"][0] = 5  # stays only where nothing is made again
    assert (made()[0] == 5).all()
    for parameter in networks.get_submodule(part).parameters():
        torch.nn.init.normal_(parameter)
    again = made()
    assert not (again[0] == 5).all()
    assert not np.array_equal(again[1], first[1])
