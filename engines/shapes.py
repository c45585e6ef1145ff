"""Which sizes an engine is tuned for, from the preset: the shapes the pipeline sends, and a range for the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dreamactor.errors import InputError
from dreamactor.interfaces import Shape, Size, interface
from dreamactor.presets import DECODER_CONTEXT, POSE_CONTEXT, Preset


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
    ranges, usual = ranges or Ranges(), Size.of(preset)
    again = replace(usual, latents=usual.latents + DECODER_CONTEXT - 1)  # a segment's first is the last of its context
    longer = replace(usual, latents=usual.latents + POSE_CONTEXT)
    points = {
        "vae_encoder": [replace(usual, latents=1)],
        "vae_decoder": [usual, again],
        "pose_encoder": [usual, longer, replace(usual, latents=1)],
        "face_motion_encoder": [usual],
        "denoiser": [usual, replace(usual, batch=3 - usual.batch)],  # callers may ask for the other
    }
    if network not in points:
        raise InputError(f"There is no network '{network}'; choose one of {', '.join(points)}.")
    low, high = ranges.smallest or (preset.height, preset.width), ranges.largest or (preset.height, preset.width)
    most = {"vae_decoder": again, "pose_encoder": longer}.get(network, usual).latents
    smallest = Size(1, *low, references=1, batch=1)
    largest = Size(most, *high, references=ranges.references, batch=2)
    whole_range = Profile(smallest, points[network][0], largest)
    return (*(Profile.fixed(point) for point in points[network] if fixed), whole_range)


def profile_shapes(preset: Preset, network: str, profile: Profile) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Minimum, optimum and maximum shape of every input."""
    sizes = (profile.minimum, profile.optimum, profile.maximum)
    low, best, high = (interface(preset, network).input_shapes(size) for size in sizes)
    return {name: (low[name], best[name], high[name]) for name in best}
