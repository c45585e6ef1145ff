"""Flow matching on latents under the paper's conditions: batches, condition dropout, carried latents, the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamactor.networks import Networks
from dreamactor.networks.transformer import Transformer
from dreamactor.pipeline.solver import SolverStep
from dreamactor.presets import video_frames
from dreamactor.training.device_clips import Clips, Indices, Shelf
from dreamactor.training.faces import draw_look, plain_look, see
from dreamactor.training.latents import SINGLES
from dreamactor.training.recipe import Stage
from dreamactor.training.sampling import walk
from dreamactor.training.vae_stage import HEAD_WEIGHT, MOUTH_WEIGHT

TIMESTEP_MEAN, TIMESTEP_SPREAD = 1.2, 1.2  # of the logit; 1 is noise, where the conditions decide what is seen
CARRIED_NOISE = 0.06  # standard deviation of a carried latent's error in use


@dataclass(frozen=True)
class FlowBatch:
    """latent [B,16,F,h,w]; controls [B,6,T,H,W]; faces [B,T,3,224,224] or None; references [B,R,16,h,w] with their
    controls [B*R,6,1,H,W]; weight [B,1,F,h,w]; keep [B,3]: 0 where pose, face or references are left out; known [B];
    context: latent frames of the controls that precede the segment."""

    latent: Tensor
    controls: Tensor
    faces: Tensor | None
    references: Tensor
    reference_controls: Tensor
    weight: Tensor
    keep: Tensor
    known: Tensor
    context: int


def flow_batch(
    clips: Clips,
    rng: np.random.Generator,
    stage: Stage,
    frames: int,
    count: int,
    share: slice = slice(None),
) -> FlowBatch:
    """Draws a batch of `count` clips with `frames` latent frames and makes `share` of it, for one of several processes:
    all shares together are the whole batch."""
    latents, pictures = _latents(clips), clips.pictures
    total = latents.arrays["video"].shape[1]
    carried = 1 < frames < total and bool(rng.random() < stage.carried)
    number = 1 + int(rng.choice(3, p=stage.references))
    rows = clips.draw(rng, latents.ready, count)
    dropped = rng.random((count, 4)) < stage.dropout * np.array([1, 0.6, 0.6, 0.6])
    single = rng.integers(len(SINGLES), size=count)
    offset = rng.integers(1, total - frames + 1, size=count) if carried else np.zeros(count, np.int64)
    chosen, look = draw_references(rng, count, number), draw_look(rng, count)

    rows, single, offset, chosen, look = rows[share], single[share], offset[share], chosen[share], look[share]
    start = np.array(SINGLES)[single] if frames == 1 else 4 * offset
    lead = 4 * int(carried)
    length = video_frames(frames)
    seen = start[:, None] + 4 * np.arange(frames)
    heads, mouths = (pictures.take(name, rows, seen) for name in ("heads", "mouths"))
    if frames == 1:
        latent = latents.take("singles", rows, single[:, None])
    else:
        latent = latents.take("video", rows, offset[:, None] + np.arange(frames))
    during = start[:, None] + np.arange(length)
    return FlowBatch(
        latent=latent.transpose(1, 2).float(),
        controls=to_controls(pictures.take("controls", rows, start[:, None] + np.arange(-lead, length))),
        faces=see(pictures.take("faces", rows, during), look) if stage.face else None,
        references=latents.take("references", rows, chosen).float(),
        reference_controls=to_controls(pictures.take("reference_controls", rows, chosen).flatten(0, 1)[:, None]),
        weight=latent_weight(heads, mouths, clips.store.height, clips.store.width),
        keep=pictures.there(1 - (dropped[share, :1] | dropped[share, 1:]).astype(np.float32)),
        known=torch.full((len(rows),), carried, device=clips.device),
        context=int(carried),
    )


def whole_batch(clips: Clips, rows: Indices, frames: int, references: tuple[int, ...]) -> FlowBatch:
    """The clips in `rows` from their beginning, with every condition and no augmentation."""
    count, latents, pictures, device = len(rows), _latents(clips), clips.pictures, clips.device
    during = np.tile(np.arange(video_frames(frames)), (count, 1))
    chosen = np.tile(np.array(references), (count, 1))
    return FlowBatch(
        latent=latents.take("video", rows, during[:, :frames]).transpose(1, 2).float(),
        controls=to_controls(pictures.take("controls", rows, during)),
        faces=see(pictures.take("faces", rows, during), plain_look(count)),
        references=latents.take("references", rows, chosen).float(),
        reference_controls=to_controls(pictures.take("reference_controls", rows, chosen).flatten(0, 1)[:, None]),
        weight=torch.ones(count, 1, frames, clips.store.height // 8, clips.store.width // 8, device=device),
        keep=torch.ones(count, 3, device=device),
        known=torch.zeros(count, dtype=torch.bool, device=device),
        context=0,
    )


def _latents(clips: Clips) -> Shelf:
    assert clips.latents is not None, "flow matching comes after `encode_clips`"
    return clips.latents


def draw_references(rng: np.random.Generator, count: int, number: int) -> Indices:
    """Indices [count, number] of reference frames: the last three are of another performance, as a user's photo is."""
    order = rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)[:, :number]
    return np.asarray(order + 3 * (rng.random((count, 1)) >= 0.4))


def to_controls(controls: Tensor) -> Tensor:
    """uint8 [B,T,H,W,6] -> [B,6,T,H,W] in [0,1]."""
    return controls.permute(0, 4, 1, 2, 3).float().div_(255)


def latent_weight(heads: Tensor, mouths: Tensor, height: int, width: int) -> Tensor:
    """[B,1,F,h,w]: `MOUTH_WEIGHT` in the cells that a mouth touches, `HEAD_WEIGHT` in the head's others, 1 elsewhere.

    heads and mouths [B,F,3] are x, y and radius in pixels; a mouth of radius 0 does not show.
    """
    y = torch.arange(height // 8, device=heads.device)[:, None] * 8 + 3.5
    x = torch.arange(width // 8, device=heads.device) * 8 + 3.5

    def near(places: Tensor, share: float, more: float) -> Tensor:
        at_x, at_y, radius = places[..., None, None].unbind(2)
        return (radius > 0) & (torch.hypot(x - at_x, y - at_y) < share * radius + more)

    weight = 1 + (HEAD_WEIGHT - 1) * near(heads, 1.1, 2).float()
    return torch.where(near(mouths, 1.0, 3), MOUTH_WEIGHT, weight)[:, None]


def conditions(networks: Networks, batch: FlowBatch) -> dict[str, Tensor]:
    """The transformer's keyword arguments: runs the pose and face encoders and zeroes what is left out."""
    count, number = batch.references.shape[:2]
    pose = networks.pose_encoder(batch.controls)[:, :, batch.context :]
    reference_pose = networks.pose_encoder(batch.reference_controls)[:, :, 0].unflatten(0, (count, number))
    if batch.faces is None:
        frames = video_frames(pose.shape[2])
        motion = pose.new_zeros(count, frames, networks.preset.face_encoder.out_channels)
    else:
        motion = networks.face_encoder(batch.faces)
    keep = batch.keep.to(pose.dtype)
    return {
        "pose_latent": pose * keep[:, 0, None, None, None, None],
        "motion": motion * keep[:, 1, None, None],
        "reference_latent": batch.references * keep[:, 2, None, None, None, None],
        "reference_pose": reference_pose * keep[:, 2, None, None, None, None],
    }


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance as the target: what learns it is guided in one evaluation (arXiv 2210.03142).

    `scale` is of all conditions together, `face_scale` of the face alone; 1 is none.
    """

    teacher: Transformer
    scale: float
    face_scale: float

    @torch.no_grad()
    def velocity(self, noisy: Tensor, timestep: Tensor, given: dict[str, Tensor]) -> Tensor:
        """The teacher's guided velocity [B,16,F,h,w] under the conditions `given` (keyword arguments of its own)."""
        guided = seen = self.teacher(noisy, timestep, **given).float()
        if self.scale != 1:
            nothing = {name: torch.zeros_like(value) for name, value in given.items()}
            guided = guided + (self.scale - 1) * (seen - self.teacher(noisy, timestep, **nothing).float())
        if self.face_scale != 1:
            faceless = {**given, "motion": torch.zeros_like(given["motion"])}
            guided = guided + (self.face_scale - 1) * (seen - self.teacher(noisy, timestep, **faceless).float())
        return guided


def flow_loss(
    networks: Networks, batch: FlowBatch, generator: torch.Generator, guidance: Guidance | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the velocity, heavier on the head; a carried frame is clean and not judged.

    With guidance the velocity to be learnt is not the data's but the teacher's, guided.
    """
    noise, carried = _noise_and_carried(batch, generator)
    logit = TIMESTEP_MEAN + TIMESTEP_SPREAD * torch.randn(len(noise), generator=generator, device=noise.device)
    timestep = _timestep(batch, torch.sigmoid(logit))
    t = timestep[:, None, :, None, None]
    noisy = _with_first((1 - t) * batch.latent + t * noise, carried, batch.known)
    given = conditions(networks, batch)
    target = guidance.velocity(noisy, timestep, given) if guidance else noise - batch.latent
    loss = _weighted_error(networks.transformer(noisy, timestep, **given).float() - target, batch)
    return loss, {"loss": loss.detach()}


def rollout_loss(
    networks: Networks, batch: FlowBatch, generator: torch.Generator, path: Sequence[SolverStep]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The transformer takes the steps of `path` from noise by itself and learns, at the last, the velocity that leads
    from where it came to the data: in use it meets its own mistakes, which noised data does not show it (as in the
    backward simulation of arXiv 2405.14867, here towards the data).

    The squared error of the clean latent, over the last step's time t: that of the velocity times t.
    """
    noise, carried = _noise_and_carried(batch, generator)
    given = conditions(networks, batch)
    known = torch.zeros(noise.shape[2], device=noise.device)
    known[0] = batch.known[0]  # a batch begins with carried frames or not, as a whole
    latent = walk(networks.transformer, _with_first(noise, carried, batch.known), known, given, path[:-1])
    torch.clear_autocast_cache()  # copies of the weights that no gradient passes
    time = path[-1].timestep
    target = (latent - batch.latent) / time
    times = _timestep(batch, torch.full((len(latent),), time, device=latent.device))
    velocity = networks.transformer(latent, times, **given).float()
    loss = time * _weighted_error(velocity - target, batch)
    return loss, {"loss": loss.detach()}


def _noise_and_carried(batch: FlowBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise [B,16,F,h,w], and the first latents [B,16,1,h,w] as far off as carried ones are."""
    device, first = batch.latent.device, batch.latent[:, :, :1]
    noise = torch.randn(batch.latent.shape, generator=generator, device=device)
    return noise, first + CARRIED_NOISE * torch.randn(first.shape, generator=generator, device=device)


def _timestep(batch: FlowBatch, timestep: Tensor) -> Tensor:
    """[B] -> [B,F], 0 for a carried frame."""
    times = timestep[:, None].repeat(1, batch.latent.shape[2])
    times[:, 0] = torch.where(batch.known, 0.0, times[:, 0])
    return times


def _with_first(latent: Tensor, carried: Tensor, known: Tensor) -> Tensor:
    """The latent [B,16,F,h,w] with the carried frame in the first's place where it is known [B]."""
    first = torch.where(known[:, None, None, None, None], carried, latent[:, :, :1])
    return torch.cat([first, latent[:, :, 1:]], 2)


def _weighted_error(difference: Tensor, batch: FlowBatch) -> Tensor:
    """Mean square of [B,16,F,h,w] under the batch's weight, without carried frames."""
    weight = _with_first(batch.weight, torch.zeros_like(batch.weight[:, :, :1]), batch.known)
    return (difference.square().mean(1, keepdim=True) * weight).sum() / weight.sum()
