"""Second stage: noise to video latents, segment by segment. The loop moves buffers; the arithmetic is in the engine."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np

from dreamactor.engines.session import Session
from dreamactor.pipeline.events import Event, denoise_fraction
from dreamactor.pipeline.options import Options
from dreamactor.pipeline.prepare import Float, PreparedClip
from dreamactor.pipeline.segments import plan
from dreamactor.pipeline.solver import schedule
from dreamactor.presets import Preset, rows

_VIEW_STREAM = 1 << 32  # noise of pseudo-references, apart from every segment's


@dataclass(frozen=True)
class Denoised:
    """After every step an event; after a segment's last step its latent [16,F,h,w] too."""

    event: Event
    latent: Float | None = None


@dataclass(frozen=True)
class _Shot:
    """One run of all steps: a segment, or a single frame that becomes a pseudo-reference.

    latent [1,16,F,h,w] starts as noise but where `known` [F] is 1; the other fields are the conditions.
    """

    latent: Float
    known: Float
    pose_latent: Float
    motion: Float


def denoise(
    denoiser: Session,
    preset: Preset,
    clip: PreparedClip,
    options: Options,
) -> Iterator[Denoised]:
    """Yields once a step, so that who does not take the next one has stopped it; the same seed gives the same latents.

    Pseudo-references come first: single frames at the clip's most different head yaws, each then a reference like the
    photos (arXiv 2504.01724, section 3.4). Their steps count as those of further segments.
    """
    loop = _Loop(denoiser, preset, options)
    segments, views = plan(clip.framing.frames, preset.latent_frames), len(clip.view_pose)
    loop.total = len(segments) + views
    grid = clip.pose_latent.shape[2:]
    for view in range(views):
        noise = _noise(options.seed, _VIEW_STREAM + view, 1, grid)
        pose, motion = clip.view_pose[view], clip.view_motion[view : view + 1]
        latent = yield from loop.run(clip, _Shot(noise, np.zeros(1, np.float32), pose[:, None], motion), "references")
        clip = replace(
            clip,
            reference_latent=np.concatenate([clip.reference_latent, latent[:, :, 0]]),
            reference_pose=np.concatenate([clip.reference_pose, pose[None]]),
        )
    pose_start, carried = 0, None
    for segment in segments:
        latent, known = (
            _noise(options.seed, segment.index, segment.latents, grid),
            np.zeros(segment.latents, np.float32),
        )
        if carried is not None:
            latent[:, :, :1], known[0] = carried, 1
        pose = clip.pose_latent[:, pose_start : pose_start + segment.latents]
        motion = clip.motion[segment.face_frames]
        latent = yield from loop.run(clip, _Shot(latent, known, pose, motion), "denoise")
        pose_start, carried = pose_start + segment.latents, latent[:, :, -1:]


class _Loop:
    """The denoising loop, counting over all shots of a job."""

    def __init__(self, denoiser: Session, preset: Preset, options: Options) -> None:
        self.denoiser = denoiser
        self.guidance = options.guidance_for(preset)
        self.steps = schedule(options.solver_for(preset), options.steps_for(preset), preset.timestep_shift)
        self.shot, self.total = 0, 0

    def run(self, clip: PreparedClip, shot: _Shot, stage: str) -> Generator[Denoised, None, Float]:
        """All steps of one shot; returns its latent [1,16,F,h,w], which a segment's last step also yields."""
        conditions = self._conditions(clip, shot)
        latent, velocity = shot.latent, np.zeros_like(shot.latent)
        self.shot += 1
        for number, step in enumerate(self.steps, 1):
            outputs = self.denoiser.run(
                {
                    "latent": latent,
                    "velocity_previous": velocity,
                    "timestep": np.array([step.timestep], np.float32),
                    "known": shot.known,
                    "guidance_scale": np.array([self.guidance], np.float32),
                    "coefficients": np.array(step.coefficients, np.float32),
                    **conditions,
                }
            )
            latent, velocity = outputs["latent_next"], outputs["velocity"]
            done = (self.shot - 1) * len(self.steps) + number
            fraction = denoise_fraction(done, self.total * len(self.steps))
            event = Event(stage, self.shot, self.total, number, len(self.steps), fraction)
            finished = number == len(self.steps) and stage == "denoise"
            yield Denoised(event, latent[0] if finished else None)
        return latent

    def _conditions(self, clip: PreparedClip, shot: _Shot) -> dict[str, Float]:
        """The conditions with a batch axis: row 0 as they are and, with guidance, row 1 zeros."""
        conditions = {
            "pose_latent": shot.pose_latent,
            "motion": shot.motion,
            "reference_latent": clip.reference_latent,
            "reference_pose": clip.reference_pose,
        }
        count = rows(self.guidance)
        return {name: np.stack([value, np.zeros_like(value)][:count]) for name, value in conditions.items()}


def _noise(seed: int, stream: int, latents: int, grid: tuple[int, ...]) -> Float:
    """Noise [1,16,F,h,w] of one shot, whatever came before it."""
    generator = np.random.Generator(np.random.PCG64([seed, stream]))
    return generator.standard_normal((1, 16, latents, *grid), dtype=np.float32)
