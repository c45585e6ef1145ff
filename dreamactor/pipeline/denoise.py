"""Second stage: noise to video latents, segment by segment. The loop moves buffers; the arithmetic is in the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dreamactor.engines.session import Session
from dreamactor.errors import Cancelled
from dreamactor.pipeline.events import Event, denoise_fraction
from dreamactor.pipeline.options import Options
from dreamactor.pipeline.prepare import Float, PreparedClip
from dreamactor.pipeline.segments import Segment, plan
from dreamactor.pipeline.solver import schedule
from dreamactor.presets import Preset, video_frames


@dataclass(frozen=True)
class Denoised:
    """After every step an event; after a segment's last step its latent [16,F,h,w] too."""

    event: Event
    latent: Float | None = None


def denoise(
    denoiser: Session,
    preset: Preset,
    clip: PreparedClip,
    options: Options,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Denoised]:
    """Yields once a step; the same seed gives the same latents. Raises Cancelled before a step that is not wanted."""
    guidance = options.guidance_for(preset)
    steps = schedule(options.solver, options.steps_for(preset), preset.timestep_shift)
    segments = plan(clip.framing.frames, preset.latent_frames)
    pose_start, carried = 0, None
    for segment in segments:
        conditions = _conditions(clip, segment, pose_start, guided=guidance != 1)
        pose_start += segment.latents
        latent = _noise(options.seed, segment, clip.pose_latent.shape[2:])
        known = np.zeros(segment.latents, np.float32)
        if carried is not None:
            latent[:, :, :1], known[0] = carried, 1
        velocity = np.zeros_like(latent)
        for index, step in enumerate(steps):
            if cancelled():
                raise Cancelled("Cancelled by the caller.")
            outputs = denoiser.run(
                {
                    "latent": latent,
                    "velocity_previous": velocity,
                    "timestep": np.array([step.timestep], np.float32),
                    "known": known,
                    "guidance_scale": np.array([guidance], np.float32),
                    "coefficients": np.array(step.coefficients, np.float32),
                    **conditions,
                }
            )
            latent, velocity = outputs["latent_next"], outputs["velocity"]
            done = segment.index * len(steps) + index + 1
            event = Event(
                "denoise", segment.index + 1, len(segments), index + 1, len(steps),
                denoise_fraction(done, len(segments) * len(steps)),
            )  # fmt: skip
            last = index == len(steps) - 1
            yield Denoised(event, latent[0] if last else None)
        carried = latent[:, :, -1:]


def _conditions(clip: PreparedClip, segment: Segment, pose_start: int, guided: bool) -> dict[str, Float]:
    """The segment's conditions with a batch axis: row 0 as they are and, with guidance, row 1 zeros."""
    frames = slice(segment.first_frame, segment.first_frame + video_frames(segment.latents))
    conditions = {
        "pose_latent": clip.pose_latent[:, pose_start : pose_start + segment.latents],
        "motion": clip.motion[frames],
        "reference_latent": clip.reference_latent,
        "reference_pose": clip.reference_pose,
    }
    return {name: np.stack([value, np.zeros_like(value)][: 1 + guided]) for name, value in conditions.items()}


def _noise(seed: int, segment: Segment, grid: tuple[int, ...]) -> Float:
    """The segment's own noise [1,16,F,h,w], whatever came before it."""
    generator = np.random.Generator(np.random.PCG64([seed, segment.index]))
    return generator.standard_normal((1, 16, segment.latents, *grid), dtype=np.float32)
