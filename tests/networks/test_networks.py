"""The networks' promises: shapes at every preset's ratio, causality, guidance nulls, references as tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dreamactor.networks import build, build_meta
from dreamactor.networks.checkpoint import Networks
from dreamactor.networks.positions import rotary_angles
from dreamactor.networks.transformer import Transformer
from dreamactor.presets import preset

TINY = preset("tiny")


@pytest.fixture(scope="module")
def networks() -> Networks:
    return build(TINY, seed=3).requires_grad_(False)


def conditions(frames: int = 9, references: int = 2, batch: int = 1, size: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    latents = 1 + (frames - 1) // 4
    return {
        "latent": torch.randn(batch, 16, latents, size, size, generator=generator),
        "timestep": torch.full((batch, latents), 0.6),
        "pose_latent": torch.randn(batch, 16, latents, size, size, generator=generator),
        "motion": torch.randn(batch, frames, TINY.face_encoder.out_channels, generator=generator),
        "reference_latent": torch.randn(batch, references, 16, size, size, generator=generator),
        "reference_pose": torch.randn(batch, references, 16, size, size, generator=generator),
    }


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 64, 64), (9, 64, 96), (17, 32, 48)])
def test_vae_maps_frames_to_latents_and_back(networks: Networks, frames: int, height: int, width: int) -> None:
    video = torch.rand(1, 3, frames, height, width) * 2 - 1
    latent = networks.vae.latent(video)
    assert latent.shape == (1, 16, 1 + (frames - 1) // 4, height // 8, width // 8)
    assert networks.vae.decode(latent).shape == video.shape


def test_encoders_do_not_see_later_frames(networks: Networks) -> None:
    video = torch.rand(1, 3, 17, 32, 32)
    changed = video.clone()
    changed[:, :, 9:] = 0  # latent 3 on
    for encode in (networks.vae.latent, lambda x: networks.pose_encoder(torch.cat([x, x], 1))):
        difference = (encode(video) - encode(changed)).abs().amax((0, 1, 3, 4))
        assert torch.all(difference[:3] == 0)
        assert torch.all(difference[3:] > 0)


def test_decoder_does_not_see_later_latents(networks: Networks) -> None:
    latent = torch.randn(1, 16, 4, 4, 4)
    changed = latent.clone()
    changed[:, :, 2:] = 0  # frames 5 on
    difference = (networks.vae.decode(latent) - networks.vae.decode(changed)).abs().amax((0, 1, 3, 4))
    assert torch.all(difference[:5] == 0)
    assert torch.all(difference[5:] > 0)


def test_statistics_normalise_latents_without_changing_the_picture() -> None:
    vae = build(TINY, seed=1).vae.requires_grad_(False)
    video = torch.rand(1, 3, 5, 32, 32)
    raw = vae.latent(video)
    decoded = vae.decode(raw)
    vae.set_statistics(raw.mean((0, 2, 3, 4)), raw.std((0, 2, 3, 4)))
    normalised = vae.latent(video)
    torch.testing.assert_close(normalised.mean((0, 2, 3, 4)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(vae.decode(normalised), decoded, atol=1e-4, rtol=1e-4)


def test_each_face_becomes_one_token_of_its_own(networks: Networks) -> None:
    faces = torch.rand(1, 3, 3, 224, 224)
    tokens = networks.face_encoder(faces)
    assert tokens.shape == (1, 3, TINY.face_encoder.out_channels)
    torch.testing.assert_close(tokens[:, 1:2], networks.face_encoder(faces[:, 1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["pose_latent", "motion", "reference_latent", "reference_pose"])
def test_every_condition_reaches_the_velocity(networks: Networks, name: str) -> None:
    inputs = conditions()
    changed = networks.transformer(**{**inputs, name: torch.zeros_like(inputs[name])})
    assert (networks.transformer(**inputs) - changed).abs().max() > 1e-4


def test_motion_counts_by_direction_and_no_face_stays_nothing(networks: Networks) -> None:
    """Tokens are normalised: an encoder whose outputs are small is read as well as one whose outputs are large."""
    inputs = conditions()
    small = networks.transformer(**{**inputs, "motion": inputs["motion"] / 50})
    torch.testing.assert_close(networks.transformer(**inputs), small, atol=1e-4, rtol=1e-3)
    assert not networks.transformer.face_norm(torch.zeros_like(inputs["motion"])).any()


def test_face_reaches_only_the_frames_around_it_in_one_block() -> None:
    config = TINY.transformer
    from dreamactor.networks.transformer import FaceAttention

    torch.manual_seed(0)
    layer = FaceAttention(config).requires_grad_(False)
    x, face = torch.randn(1, 5 * 16, config.dim), torch.randn(1, 5 * 4, config.dim)
    changed = face.clone()
    changed[:, 16:] = 0  # the face tokens of latent frame 4
    difference = (layer(x, face, 5) - layer(x, changed, 5)).abs().amax((0, 2)).reshape(5, 16).amax(1)
    assert torch.all(difference[:3] == 0)
    assert torch.all(difference[3:] > 0)


def test_timestep_is_each_latent_frames_own(networks: Networks) -> None:
    inputs = conditions()
    other = inputs["timestep"].clone()
    other[:, 0] = 0
    assert (networks.transformer(**inputs) - networks.transformer(**{**inputs, "timestep": other})).abs().max() > 1e-4


def test_patches_of_any_size_stand_where_they_are_in_the_picture() -> None:
    config = replace(TINY.transformer, patch=1)
    transformer = Transformer(config, TINY.face_encoder.out_channels, TINY.pose_encoder.out_channels)
    inputs = conditions(size=5)
    assert transformer(**inputs).shape == inputs["latent"].shape
    coarse = rotary_angles(torch.arange(2), 3, 3, 64)
    fine = rotary_angles(torch.arange(2), 6, 6, 64, step=0.5)
    for one, other in zip(coarse, fine, strict=True):
        torch.testing.assert_close(other.reshape(2, 6, 6, 32)[:, ::2, ::2].reshape(-1, 32), one)


def test_batch_rows_do_not_mix(networks: Networks) -> None:
    inputs = conditions(batch=2)
    alone = networks.transformer(**{name: value[1:] for name, value in inputs.items()})
    torch.testing.assert_close(networks.transformer(**inputs)[1:], alone, atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_parameter_that_the_output_depends_on() -> None:
    networks = build(TINY, seed=2)
    networks.transformer(**conditions()).square().mean().backward()
    without = {name for name, p in networks.transformer.named_parameters() if p.grad is None or not p.grad.any()}
    last = f"blocks.{TINY.transformer.depth - 1}"
    assert all(name.startswith(last) for name in without), without


def test_m1_has_the_size_the_design_says() -> None:
    count = sum(weight.numel() for weight in build_meta(preset("m1")).parameters())
    assert 7e9 < count < 8.5e9
    assert preset("m1").transformer.head_dim == 128
