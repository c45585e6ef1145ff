"""Which sizes an engine is tuned for, from the preset: the shapes the pipeline sends, and a range for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dreamactor.errors import InputError
from dreamactor.presets import (
    CONTROL_CHANNELS,
    FACE_SIZE,
    LATENT_CHANNELS,
    SPATIAL_STRIDE,
    Preset,
    latent_frames,
    video_frames,
)

Shape = tuple[int, ...]
DECODER_CONTEXT = 3  # latent frames the pipeline decodes again before a segment's own


@dataclass(frozen=True)
class Size:
    """One point: latent frames, pixels, reference photos, and rows (2 with guidance, 1 without)."""

    latents: int
    height: int
    width: int
    references: int = 1
    batch: int = 2

    @property
    def frames(self) -> int:
        return video_frames(self.latents)


@dataclass(frozen=True)
class Profile:
    """What the builder tunes for: `optimum`, accepting everything from `minimum` to `maximum`."""

    minimum: Size
    optimum: Size
    maximum: Size

    @classmethod
    def fixed(cls, size: Size) -> Profile:
        return cls(size, size, size)


@dataclass(frozen=True)
class Ranges:
    """What may vary beyond the preset's own size: at most so many references, and pictures from `smallest` to
    `largest` (height, width). None keeps the preset's."""

    references: int = 4
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None


def profiles(preset: Preset, network: str, ranges: Ranges | None = None, fixed: bool = True) -> tuple[Profile, ...]:
    """Fixed profiles for what the pipeline mostly sends, then one range for all it may send.

    Without `fixed` only the range: TensorRT-RTX specialises its kernels to the shapes it meets when it runs, and each
    profile costs it room in the engine.
    """
    ranges = ranges or Ranges()
    whole = latent_frames(preset.segment_frames)
    usual = Size(whole, preset.height, preset.width, batch=preset.rows)
    points = {
        "vae_encoder": [replace(usual, latents=1)],
        "vae_decoder": [usual, replace(usual, latents=whole + DECODER_CONTEXT)],
        "pose_encoder": [usual, replace(usual, latents=1)],
        "face_motion_encoder": [usual],
        "denoiser": [usual, replace(usual, batch=3 - usual.batch)],  # callers may ask for the other
    }
    if network not in points:
        raise InputError(f"There is no network '{network}'; choose one of {', '.join(points)}.")
    low, high = ranges.smallest or (preset.height, preset.width), ranges.largest or (preset.height, preset.width)
    most = whole + DECODER_CONTEXT if network == "vae_decoder" else whole
    smallest = Size(1, *low, references=1, batch=1)
    largest = Size(most, *high, references=ranges.references, batch=2)
    whole_range = Profile(smallest, points[network][0], largest)
    return (*(Profile.fixed(point) for point in points[network] if fixed), whole_range)


def input_shapes(preset: Preset, network: str, size: Size) -> dict[str, Shape]:
    """Shape of every input of `network` at `size`."""
    rows, columns, latents = size.height // SPATIAL_STRIDE, size.width // SPATIAL_STRIDE, size.latents
    grid, pixels = (latents, rows, columns), (size.frames, size.height, size.width)
    pose = preset.pose_encoder.out_channels
    shapes: dict[str, dict[str, Shape]] = {
        "vae_encoder": {"video": (1, 3, *pixels)},
        "vae_decoder": {"latent": (1, LATENT_CHANNELS, *grid)},
        "pose_encoder": {"control": (1, CONTROL_CHANNELS, *pixels)},
        "face_motion_encoder": {"faces": (1, size.frames, 3, FACE_SIZE, FACE_SIZE)},
        "denoiser": {
            "latent": (1, LATENT_CHANNELS, *grid),
            "velocity_previous": (1, LATENT_CHANNELS, *grid),
            "timestep": (1,),
            "known": (latents,),
            "guidance_scale": (1,),
            "coefficients": (3,),
            "pose_latent": (size.batch, pose, *grid),
            "motion": (size.batch, size.frames, preset.face_encoder.out_channels),
            "reference_latent": (size.batch, size.references, LATENT_CHANNELS, rows, columns),
            "reference_pose": (size.batch, size.references, pose, rows, columns),
        },
    }
    return shapes[network]


def profile_shapes(preset: Preset, network: str, profile: Profile) -> Mapping[str, tuple[Shape, Shape, Shape]]:
    """Minimum, optimum and maximum shape of every input."""
    low, best, high = (input_shapes(preset, network, s) for s in (profile.minimum, profile.optimum, profile.maximum))
    return {name: (low[name], best[name], high[name]) for name in best}
