"""What each stage learns: batches, what is left out of them, what is judged, and the guided targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamactor.errors import InputError
from dreamactor.networks import build
from dreamactor.presets import preset
from dreamactor.training import flow_stage, parallel
from dreamactor.training.clip_store import EXPRESSIONS
from dreamactor.training.expression_stage import ABSOLUTE, CONSTANT, expression_batch, expression_loss
from dreamactor.training.flow_stage import CARRIED_NOISE, Guidance, conditions, flow_batch, flow_loss, latent_weight
from dreamactor.training.latents import SINGLES
from dreamactor.training.muon import Muon
from dreamactor.training.recipe import Recipe
from dreamactor.training.sampling import sample
from dreamactor.training.vae_stage import MOTION_WEIGHT, face_mask, reconstruction_loss, vae_batch, vae_loss
from tests.training.helpers import encoded, named, train_clips


def test_conditions_are_left_out_as_often_as_the_stage_says(encoded_clips: Path, quick: Recipe) -> None:
    clips, networks = encoded(encoded_clips)
    stage = replace(named(quick, "all"), dropout=0.5)
    faceless = replace(stage, face=False)  # which takes less time
    keeps = np.concatenate([flow_batch(clips, np.random.default_rng(k), faceless, 1, 8).keep for k in range(40)])
    together = 1 - 0.5 * (1 - 0.5 * 0.6)  # all at once, or each alone
    assert 1 - keeps.mean(0) == pytest.approx([together] * 3, abs=0.08)

    batch = flow_batch(clips, np.random.default_rng(0), stage, 2, 3)
    batch = replace(batch, keep=torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]))
    found = conditions(networks, batch)
    for row, names in enumerate((["pose_latent"], ["motion"], ["reference_latent", "reference_pose"])):
        assert {name for name in found if not found[name][row].any()} == set(names)


def test_a_carried_frame_is_clean_and_not_judged(encoded_clips: Path, quick: Recipe) -> None:
    clips, networks = encoded(encoded_clips)
    batch = flow_batch(clips, np.random.default_rng(0), replace(named(quick, "all"), carried=1.0), 2, 3)
    assert batch.known.all()
    seen: dict[str, torch.Tensor] = {}

    def loss(first: float) -> float:
        """Where the network says `first` of the carried frame and nothing of the others."""

        def transformer(noisy: torch.Tensor, timestep: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
            seen.update(noisy=noisy, timestep=timestep)
            velocity = torch.zeros_like(noisy)
            velocity[:, :, 0] = first
            return velocity

        networks.transformer.forward = transformer
        return float(flow_loss(networks, batch, torch.Generator().manual_seed(0))[0])

    assert loss(0.0) == loss(1e3)
    assert not seen["timestep"][:, 0].any()
    assert seen["timestep"][:, 1].all()
    off = (seen["noisy"] - batch.latent)[:, :, 0]
    assert float(off.std()) == pytest.approx(CARRIED_NOISE, rel=0.2)


def test_noise_is_drawn_where_conditions_decide(encoded_clips: Path, quick: Recipe) -> None:
    clips, networks = encoded(encoded_clips)
    batch = flow_batch(clips, np.random.default_rng(0), replace(named(quick, "all"), carried=0.0), 1, 3)
    seen: list[torch.Tensor] = []

    def transformer(noisy: torch.Tensor, timestep: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        seen.append(timestep)
        return torch.zeros_like(noisy)

    networks.transformer.forward = transformer
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        flow_loss(networks, batch, generator)
    assert float(torch.cat(seen).median()) == pytest.approx(0.77, abs=0.06)  # a logit of 1.2


@pytest.mark.parametrize("carried", [0.0, 1.0])
def test_what_is_learnt_leads_from_the_noised_latent_to_the_data(
    encoded_clips: Path, quick: Recipe, carried: float
) -> None:
    """x_t = (1-t) x0 + t noise, so the velocity noise - x0 is (x_t - x0) / t: who says that makes no error."""
    clips, networks = encoded(encoded_clips)
    batch = flow_batch(clips, np.random.default_rng(0), replace(named(quick, "all"), carried=carried), 2, 3)
    off = torch.zeros(())

    def transformer(noisy: torch.Tensor, timestep: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        times = timestep[:, None, :, None, None]
        assert float(((noisy - batch.latent) / times + batch.latent)[:, :, 1:].std()) == pytest.approx(1, abs=0.1)
        return (noisy - batch.latent) / times.clamp_min(1e-3) + off

    networks.transformer.forward = transformer
    assert float(flow_loss(networks, batch, torch.Generator().manual_seed(0))[0]) < 1e-8
    off = (batch.weight == batch.weight.max()).float()  # an error where it weighs most
    assert float(flow_loss(networks, batch, torch.Generator().manual_seed(0))[0]) > 2 * float(off.mean())


@pytest.mark.parametrize(("frames", "carried"), [(1, 0.0), (2, 0.0), (2, 1.0)])
def test_controls_and_faces_are_of_the_latents_frames(
    encoded_clips: Path, quick: Recipe, frames: int, carried: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every picture and latent holds its own number; before a carried latent's four frames come four more."""
    clips, _ = encoded(encoded_clips)
    assert clips.latents is not None
    for shelf in (clips.pictures, clips.latents):
        arrays = dict(shelf.arrays)
        for name in {"controls", "faces", "video", "singles"} & set(arrays):
            shape = arrays[name].shape
            number = np.arange(shape[1]).reshape(-1, *[1] * (len(shape) - 2))
            arrays[name] = np.broadcast_to(number, shape).astype(arrays[name].dtype)
        shelf.arrays = arrays
    monkeypatch.setattr(flow_stage, "see", lambda faces, look: faces)
    stage = replace(named(quick, "all"), carried=carried)
    batch = flow_batch(clips, np.random.default_rng(0), stage, frames, 8)
    number = batch.latent[:, 0, 0, 0, 0].int()
    first = torch.tensor(SINGLES)[number] if frames == 1 else 4 * number
    during = first[:, None] + torch.arange(4 * frames - 3)
    assert batch.faces is not None
    assert torch.equal(batch.faces[:, :, 0, 0, 0].int(), during.int())
    lead = first[:, None] + torch.arange(-4 * int(carried), 0)
    seen = (255 * batch.controls[:, 0, :, 0, 0]).round().int()
    assert torch.equal(seen, torch.cat([lead, during], 1).int())
    assert batch.context == int(carried)


def descend(optimizer: torch.optim.Optimizer, loss: Callable[[int], torch.Tensor], steps: int) -> list[float]:
    """The loss of each of so many steps."""
    values = []
    for step in range(steps):
        value = loss(step)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(float(value.detach()))
    return values


def test_a_few_steps_reduce_the_loss(clips: Path) -> None:
    drawn, networks = train_clips(clips), build(preset("tiny"), 0)
    parameters = list(networks.vae.parameters())
    groups = [
        {"params": [p for p in parameters if (p.ndim == 4) == matrix], "matrix": matrix} for matrix in (True, False)
    ]
    optimizer = Muon(groups, 3e-3, parallel.start())

    def loss(step: int) -> torch.Tensor:
        rng, generator = np.random.default_rng([0, step]), torch.Generator().manual_seed(step)
        return vae_loss(networks, *vae_batch(drawn, rng, 1, 4), rng, generator)[0]

    values = descend(optimizer, loss, 25)
    assert np.mean(values[-5:]) < 0.7 * np.mean(values[:3])


def test_the_face_encoder_learns_the_expression(clips: Path) -> None:
    drawn, networks = train_clips(clips), build(preset("tiny"), 0)
    optimizer = torch.optim.Adam(networks.face_encoder.parameters(), 3e-3)

    def loss(step: int) -> torch.Tensor:
        return expression_loss(networks, *expression_batch(drawn, np.random.default_rng([0, step]), 4, 3))[0]

    values = descend(optimizer, loss, 30)
    assert np.mean(values[-10:]) < 0.7 * np.mean(values[:5])


def test_a_face_turned_away_teaches_no_expression(clips: Path) -> None:
    networks, faces = build(preset("tiny"), 0), torch.rand(1, 3, 3, 224, 224)
    expressions = torch.randn(1, 3, EXPRESSIONS)
    expressions[:, 2] = torch.nan
    loss, _ = expression_loss(networks, faces, expressions)
    alone, _ = expression_loss(networks, faces[:, :2], expressions[:, :2])
    torch.testing.assert_close(loss, alone)


@pytest.mark.parametrize("off", [0.0, 1.0])
def test_a_token_is_the_expression_itself(off: float) -> None:
    """An error that stays through the clip costs as much as its share says."""
    networks = build(preset("tiny"), 0)
    tokens, expressions = torch.zeros(1, 4, networks.preset.face_encoder.out_channels), torch.randn(1, 4, EXPRESSIONS)
    tokens[..., :EXPRESSIONS], tokens[..., EXPRESSIONS] = expressions, CONSTANT
    networks.face_encoder.forward = lambda faces: tokens + off
    loss, _ = expression_loss(networks, torch.zeros(1), expressions)
    assert float(loss) == pytest.approx(ABSOLUTE * off * tokens.shape[-1] / EXPRESSIONS, abs=1e-6)


def test_flicker_costs_more_than_a_difference_that_stays() -> None:
    video, weight = torch.zeros(1, 3, 9, 8, 8), torch.ones(1, 1, 9, 8, 8)
    off = torch.full_like(video, 0.1)
    flashing = off * (1 - 2 * (torch.arange(9) % 2))[:, None, None]
    still, flicker = (float(reconstruction_loss(made, video, weight)[0]) for made in (off, flashing))
    assert flicker - still == pytest.approx(MOTION_WEIGHT * 0.2)


def test_mouth_and_head_weigh_more() -> None:
    heads, mouths = torch.tensor([[[32.0, 24.0, 12.0]]]), torch.tensor([[[32.0, 30.0, 4.0]]])
    mask, cells = face_mask(heads, mouths, 64, 64)[0, 0, 0], latent_weight(heads, mouths, 64, 64)[0, 0, 0]
    for weights, at in ((mask, 1), (cells, 8)):
        assert weights[30 // at, 32 // at] > weights[16 // at, 32 // at] > weights[60 // at, 4 // at] == 1
    hidden = face_mask(heads, mouths * torch.tensor([1.0, 1.0, 0.0]), 64, 64)[0, 0, 0]
    assert hidden[30, 32] == mask[16, 32]


def test_shares_of_a_batch_are_the_whole(encoded_clips: Path, quick: Recipe) -> None:
    clips, _ = encoded(encoded_clips)
    whole, *halves = (
        flow_batch(clips, np.random.default_rng(1), named(quick, "all"), 2, 4, share)
        for share in (slice(None), slice(0, 2), slice(2, 4))
    )
    for name, value in vars(whole).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, torch.cat([getattr(half, name) for half in halves])), name


def test_guidance_in_the_target_is_what_a_sampler_adds(encoded_clips: Path, quick: Recipe) -> None:
    """Beside the sampler's own arithmetic, in one step; what is left out of the conditions moves nothing."""
    clips, networks = encoded(encoded_clips)
    batch = flow_batch(clips, np.random.default_rng(0), named(quick, "guidance"), 2, 3)

    def given(face: float = 1.0, others: float = 1.0) -> dict[str, torch.Tensor]:
        keep = torch.tensor([[others, face, others]] * 3)
        return {name: value.detach() for name, value in conditions(networks, replace(batch, keep=keep)).items()}

    def shift(scale: float, face_scale: float, given: dict[str, torch.Tensor]) -> torch.Tensor:
        """By how much the target is moved."""
        velocities = (
            Guidance(networks.transformer, *scales).velocity(noise, torch.ones(3, 2), given)
            for scales in ((scale, face_scale), (1.0, 1.0))
        )
        return next(velocities) - next(velocities)

    def sampled(guidance: float) -> torch.Tensor:
        return sample(networks, given(), tuple(noise.shape), 1, guidance, torch.Generator().manual_seed(1))

    noise = torch.randn(batch.latent.shape, generator=torch.Generator().manual_seed(1))
    guided = shift(2.5, 1.0, given())
    assert float(guided.abs().mean()) > 1e-3
    assert torch.allclose(sampled(1.0) - sampled(2.5), guided, atol=1e-5)
    assert torch.allclose(shift(1.0, 3.0, given()), 2 * shift(1.0, 2.0, given()), atol=1e-5)
    assert float(shift(1.0, 2.0, given()).abs().mean()) > 1e-4
    assert not shift(1.0, 3.0, given(face=0.0)).any()
    assert not shift(3.0, 3.0, given(face=0.0, others=0.0)).any()


def test_a_guided_stage_learns_from_its_teacher(encoded_clips: Path, quick: Recipe) -> None:
    clips, networks = encoded(encoded_clips)
    batch = flow_batch(clips, np.random.default_rng(0), named(quick, "guidance"), 2, 3)

    def loss(guidance: Guidance | None) -> float:
        return flow_loss(networks, batch, torch.Generator().manual_seed(0), guidance)[1]["loss"].item()

    assert loss(None) > 0.1
    assert loss(Guidance(networks.transformer, 1.0, 1.0)) < 1e-10
    assert loss(Guidance(networks.transformer, 3.0, 1.0)) == pytest.approx(
        4 * loss(Guidance(networks.transformer, 2.0, 1.0)), rel=1e-3
    )
    assert loss(Guidance(networks.transformer, 2.0, 1.0)) > 1e-6


def test_a_guided_stage_that_would_move_its_teacher_s_conditions_is_refused(quick: Recipe) -> None:
    with pytest.raises(InputError, match="both read the same conditions"):
        replace(named(quick, "guidance"), trains=("pose_encoder.", "transformer."))


def test_a_guided_stage_with_a_rollout_is_refused(quick: Recipe) -> None:
    with pytest.raises(InputError, match="Make two stages of it"):
        replace(named(quick, "guidance"), rollout=2)


def test_an_option_that_a_stage_would_not_read_is_refused(quick: Recipe) -> None:
    with pytest.raises(InputError, match="'vae' is of kind 'vae' and sets rollout, which is of kind flow alone"):
        replace(named(quick, "vae"), rollout=2)
    with pytest.raises(InputError, match="sets latent_noise, which is of kind vae or decoder alone"):
        replace(named(quick, "all"), latent_noise=0.3)
