"""Flow matching on latents under the paper's conditions: batches, condition dropout, carried latents, the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamactor.networks import Networks
from dreamactor.networks.transformer import Transformer
from dreamactor.pipeline.solver import SolverStep
from dreamactor.presets import FACE_SIZE, video_frames
from dreamactor.training.clip import enlarge_faces
from dreamactor.training.latents import SINGLES, LatentStore
from dreamactor.training.recipe import Stage
from dreamactor.training.sample import walk
from dreamactor.training.store import ClipStore

TIMESTEP_MEAN, TIMESTEP_SPREAD = 1.2, 1.2  # of the logit; 1 is noise, where the conditions decide what is seen
CARRIED_NOISE = 0.06  # what a carried latent is off in use
HEAD_WEIGHT, MOUTH_WEIGHT = 3.0, 16.0


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

    def to(self, device: torch.device) -> FlowBatch:
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)  # type: ignore[arg-type]


def flow_batch(
    store: ClipStore,
    latents: LatentStore,
    rng: np.random.Generator,
    stage: Stage,
    frames: int,
    count: int,
    share: slice = slice(None),
) -> FlowBatch:
    """Draws a batch of `count` clips with `frames` latent frames and makes `share` of it, for one of several processes;
    the shares together are the whole."""
    total = latents.video.shape[2]
    carried = 1 < frames < total and rng.random() < stage.carried
    number = 1 + int(rng.choice(3, p=stage.references))
    clips, seeds = rng.choice(store.count, size=count, p=store.by_head), rng.integers(2**62, size=count)
    dropped = rng.random((count, 4)) < stage.dropout * np.array([1, 0.6, 0.6, 0.6])
    latent, controls, faces, references, reference_controls, weights = [], [], [], [], [], []
    for clip, seed in zip(clips[share], seeds[share], strict=True):
        rng = np.random.default_rng(seed)  # of this clip alone, whoever makes it
        if frames == 1:
            single = int(rng.integers(len(SINGLES)))
            start = lead = SINGLES[single]
            latent.append(latents.singles[clip, single][:, None])
        else:
            offset = int(rng.integers(1, total - frames + 1)) if carried else 0
            start, lead = 4 * offset, 4 * max(0, offset - 1)
            latent.append(latents.video[clip, :, offset : offset + frames])
        stop = start + video_frames(frames)
        controls.append(store.controls[clip, lead:stop])
        seen = slice(start, stop, 4)
        weights.append(latent_weight(store.heads[clip, seen], store.mouths[clip, seen], store.height, store.width))
        if stage.face:
            faces.append(augment_faces(store.faces[clip, start:stop], rng))
        chosen = choose_references(rng, number)
        references.append(latents.references[clip, chosen])
        reference_controls.append(store.reference_controls[clip, chosen])
    keep = 1 - (dropped[share, :1] | dropped[share, 1:]).astype(np.float32)
    return FlowBatch(
        latent=torch.from_numpy(np.stack(latent)).float(),
        controls=to_controls(np.stack(controls)),
        faces=to_faces(np.stack(faces)) if stage.face else None,
        references=torch.from_numpy(np.stack(references)).float(),
        reference_controls=to_controls(np.concatenate(reference_controls)[:, None]),
        weight=torch.from_numpy(np.stack(weights))[:, None],
        keep=torch.from_numpy(keep),
        known=torch.full((len(keep),), carried),
        context=1 if carried else 0,
    )


def whole_batch(
    store: ClipStore, latents: LatentStore, clips: range, frames: int, references: tuple[int, ...]
) -> FlowBatch:
    """Clips from their beginning with every condition, nothing augmented."""
    count, length = len(clips), video_frames(frames)
    first, last = clips.start, clips.stop
    chosen = list(references)
    return FlowBatch(
        latent=torch.from_numpy(np.asarray(latents.video[first:last, :, :frames], np.float32)),
        controls=to_controls(np.stack([store.controls[i, :length] for i in clips])),
        faces=to_faces(np.stack([enlarge_faces(store.faces[i, :length]) for i in clips])),
        references=torch.from_numpy(np.asarray(latents.references[first:last][:, chosen], np.float32)),
        reference_controls=to_controls(np.concatenate([store.reference_controls[i, chosen] for i in clips])[:, None]),
        weight=torch.ones(count, 1, frames, store.height // 8, store.width // 8),
        keep=torch.ones(count, 3),
        known=torch.zeros(count, dtype=torch.bool),
        context=0,
    )  # fmt: skip


def choose_references(rng: np.random.Generator, number: int) -> list[int]:
    """Indices of reference frames: the last three are of another performance, as a user's photo is."""
    order = list(rng.permutation(3)) if rng.random() < 0.4 else [3 + int(i) for i in rng.permutation(3)]
    return [int(i) for i in order[:number]]


def to_controls(controls: NDArray[np.uint8]) -> Tensor:
    """uint8 [B,T,H,W,6] -> [B,6,T,H,W] in [0,1]."""
    return torch.from_numpy(np.array(controls)).permute(0, 4, 1, 2, 3).float().div_(255)


def to_faces(faces: NDArray[np.uint8]) -> Tensor:
    """uint8 [B,T,224,224,3] -> [B,T,3,224,224] in [-1,1]."""
    return torch.from_numpy(faces).permute(0, 1, 4, 2, 3).float().div_(127.5).sub_(1)


def augment_faces(faces: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The same crop window, colour curve and blur for a whole clip, as another camera would see the face."""
    size = faces.shape[1]
    side = int(size * rng.uniform(0.8, 0.97))
    x, y = (int(rng.integers(size - side + 1)) for _ in range(2))
    window = faces[:, y : y + side, x : x + side]
    gain, bias, gamma = rng.uniform(0.6, 1.2, 3) ** 0.5, rng.uniform(-18, 18, 3), float(rng.uniform(0.65, 1.5))
    ramp = (np.arange(256) / 255.0) ** gamma
    tables = np.clip(ramp[:, None] * 255 * gain + bias, 0, 255).astype(np.uint8)  # [256, 3]
    gray, blur = rng.random() < 0.15, float(rng.uniform(0.3, 1.4)) if rng.random() < 0.3 else 0.0
    out = []
    for face in window:
        face = cv2.LUT(np.ascontiguousarray(face), tables[None])
        if gray:
            face = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if blur:
            face = cv2.GaussianBlur(face, (0, 0), blur)
        out.append(cv2.resize(face, (FACE_SIZE, FACE_SIZE), interpolation=cv2.INTER_LINEAR))
    return np.stack(out).astype(np.uint8)


def latent_weight(
    heads: NDArray[np.float32], mouths: NDArray[np.float32], height: int, width: int
) -> NDArray[np.float32]:
    """[F,h,w]: `MOUTH_WEIGHT` in the cells that a mouth touches, `HEAD_WEIGHT` in the head's others, 1 elsewhere."""
    y, x = np.mgrid[0 : height // 8, 0 : width // 8] * 8 + 3.5

    def near(places: NDArray[np.float32], share: float, more: float) -> NDArray[np.bool_]:
        at_x, at_y, radius = places.T[:, :, None, None]
        return np.asarray((radius > 0) & (np.hypot(x - at_x, y - at_y) < share * radius + more))

    weight = np.where(near(heads, 1.1, 2), HEAD_WEIGHT, 1.0)
    return np.where(near(mouths, 1.0, 3), MOUTH_WEIGHT, weight).astype(np.float32)


def conditions(networks: Networks, batch: FlowBatch) -> dict[str, Tensor]:
    """Runs the pose and face encoders and zeroes what is left out: the transformer's keyword arguments."""
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
) -> tuple[Tensor, dict[str, float]]:
    """Mean squared error of the velocity, heavier on the head; a carried frame is clean and not judged.

    With guidance the velocity to be learnt is not the data's but the teacher's, guided.
    """
    noise, carried = _noise_and_carried(batch, generator)
    logit = TIMESTEP_MEAN + TIMESTEP_SPREAD * torch.randn(len(noise), generator=generator)
    timestep = _timestep(batch, torch.sigmoid(logit).to(noise.device))
    t = timestep[:, None, :, None, None]
    noisy = _with_first((1 - t) * batch.latent + t * noise, carried, batch.known)
    given = conditions(networks, batch)
    target = guidance.velocity(noisy, timestep, given) if guidance else noise - batch.latent
    loss = _weighted_error(networks.transformer(noisy, timestep, **given).float() - target, batch)
    return loss, {"loss": float(loss.detach())}


def rollout_loss(
    networks: Networks, batch: FlowBatch, generator: torch.Generator, path: Sequence[SolverStep]
) -> tuple[Tensor, dict[str, float]]:
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
    time = path[-1].timestep
    target = (latent - batch.latent) / time
    velocity = networks.transformer(latent, _timestep(batch, time), **given).float()
    loss = time * _weighted_error(velocity - target, batch)
    return loss, {"loss": float(loss.detach())}


def _noise_and_carried(batch: FlowBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise [B,16,F,h,w], and the first latents [B,16,1,h,w] as far off as carried ones are."""
    noise = torch.randn(batch.latent.shape, generator=generator).to(batch.latent.device)
    first = batch.latent[:, :, :1]
    return noise, first + CARRIED_NOISE * torch.randn(first.shape, generator=generator).to(first.device)


def _timestep(batch: FlowBatch, timestep: Tensor | float) -> Tensor:
    """[B,F] from one of each clip or of all: 0 for a carried frame."""
    times = torch.as_tensor(timestep, device=batch.latent.device, dtype=torch.float32).reshape(-1, 1)
    times = times.repeat(len(batch.latent) // len(times), batch.latent.shape[2])
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
