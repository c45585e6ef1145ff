"""A mouth's movement in pixels: what counts, what drops out, and that the rollout learns from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamactor.errors import InputError
from dreamactor.pipeline.solver import schedule
from dreamactor.training.flow_stage import flow_batch, rollout_loss
from dreamactor.training.mouth import FEWEST, GRID, SMALLEST, patches, unexplained
from dreamactor.training.recipe import Recipe
from tests.training.helpers import encoded, named

FRAMES, SIZE = 9, 48
HALF = 6.0


def drawn(opening: Tensor, at: Tensor, skin: float = 0.3) -> Tensor:
    """A video [1,3,T,48,48] of a dark mouth, so many pixels high, at x, y of each frame."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    inside = ((x - at[:, 0, None, None]).abs() <= 4) & ((y - at[:, 1, None, None]).abs() <= opening[:, None, None])
    return torch.where(inside, -0.8, skin).expand(3, -1, -1, -1)[None]


@pytest.fixture
def opening() -> Tensor:
    return torch.tensor([0.0, 1, 3, 4, 2, 0, 3, 1, 4])


@pytest.fixture
def places() -> Tensor:
    """The mouth's places [1,9,3], going through the picture pixel by pixel."""
    along = torch.arange(FRAMES) + 18.0
    return torch.stack([along, along + 3, torch.full((FRAMES,), HALF)], -1)[None]


def test_a_patch_is_what_the_picture_has_there() -> None:
    ramp = torch.arange(SIZE).float().expand(SIZE, SIZE)
    video = torch.stack([ramp, ramp.T, torch.zeros(SIZE, SIZE)])[None, :, None]
    found = patches(video, torch.tensor([[[20.0, 11.0, 5.0]]]))
    expected = torch.linspace(-5, 5, GRID)
    assert torch.allclose(found[0, 0, 0], (20 + expected).expand(GRID, GRID), atol=1e-4)
    assert torch.allclose(found[0, 0, 1], (11 + expected)[:, None].expand(GRID, GRID), atol=1e-4)


def test_all_of_the_movement_none_of_it_and_half(opening: Tensor, places: Tensor) -> None:
    truth = drawn(opening, places[0])
    still = drawn(torch.full((FRAMES,), 2.0), places[0])
    assert unexplained(truth, truth, places) == 0
    assert 0.9 < unexplained(still, truth, places) < 1.0  # what the truth has at rest is in the denominator
    assert unexplained(drawn(opening.flip(0), places[0]), truth, places) > 1
    half = unexplained((truth + still) / 2, truth, places)
    assert half == pytest.approx(float(unexplained(still, truth, places)) / 4, rel=1e-4)


def test_another_skin_and_where_the_head_is_drop_out(opening: Tensor, places: Tensor) -> None:
    truth = drawn(opening, places[0])
    assert unexplained(truth + 0.4, truth, places) == pytest.approx(0, abs=1e-9)
    resting = places[:, :1].expand(-1, FRAMES, -1)
    moved = patches(truth, places) - patches(drawn(opening, resting[0]), resting)
    assert moved.abs().max() < 1e-4


@pytest.mark.parametrize("case", ["turned away", "too small", "in too few frames"])
def test_a_mouth_that_does_not_show_is_not_judged(opening: Tensor, places: Tensor, case: str) -> None:
    hidden = places.clone()
    if case == "turned away":
        hidden[..., 2] = 0
    elif case == "too small":
        hidden[..., 2] = 0.9 * SMALLEST
    else:
        hidden[:, FEWEST - 1 :, 2] = 0
    truth = drawn(opening, places[0])
    made = torch.zeros_like(truth, requires_grad=True)
    loss = unexplained(made, truth, hidden)
    loss.backward()
    assert float(loss.detach()) == 0
    assert made.grad is not None
    assert not made.grad.any()

    plain = made.detach()
    both = [torch.cat(pair) for pair in ((plain, plain), (truth, truth), (hidden, places))]
    assert float(unexplained(*both)) == pytest.approx(float(unexplained(plain, truth, places)))  # of those that show


def test_the_rollout_learns_from_the_decoded_mouth(new_run: Callable[[str], Path], quick: Recipe) -> None:
    clips, networks = encoded(new_run("rollout"))
    stage = replace(named(quick, "rollout"), mouth=1.0, carried=0.0, dropout=0.0)
    batch = flow_batch(clips, np.random.default_rng(0), stage, 3, 4)
    assert batch.video is not None
    batch = replace(batch, mouths=torch.tensor([32.0, 32.0, 8.0]).expand(4, batch.video.shape[2], 3))  # tiny: 2 pixels
    path = schedule("euler", 2, networks.preset.timestep_shift)

    def gradient(mouth: float) -> tuple[float, Tensor]:
        networks.zero_grad()
        loss, logged = rollout_loss(networks, batch, torch.Generator().manual_seed(0), path, mouth)
        loss.backward()
        weight = networks.transformer.blocks[0].face.out.weight.grad
        assert weight is not None
        return float(loss.detach() - logged["loss"] - mouth * logged["mouth"]), weight.clone()

    (rest, with_it), (_, without) = gradient(2.0), gradient(0.0)
    assert rest == pytest.approx(0, abs=1e-5)
    assert (with_it - without).norm() > 0.05 * without.norm()


def test_a_clip_without_its_face_or_pose_moves_no_mouth(new_run: Callable[[str], Path], quick: Recipe) -> None:
    clips, _ = encoded(new_run("rollout"))
    stage = replace(named(quick, "rollout"), mouth=1.0, dropout=0.7, carried=1.0)
    for seed in range(8):
        batch = flow_batch(clips, np.random.default_rng(seed), stage, 2, 6)
        assert batch.mouths is not None
        assert not batch.mouths[batch.keep.prod(1) == 0][..., 2].any()
        assert not batch.known.any() or not batch.mouths[:, 0, 2].any()
    assert flow_batch(clips, np.random.default_rng(0), stage, 1, 6).video is None  # one frame has no movement


def test_a_stage_that_would_look_at_mouths_without_a_rollout_is_refused(quick: Recipe) -> None:
    with pytest.raises(InputError, match="only a rollout decodes"):
        replace(named(quick, "all"), mouth=1.0)
