"""Sizes of every network, by preset. No torch here: the pipeline, the engines and the server read these too.

The paper publishes neither depth, width nor heads (arXiv 2504.01724); every number below is our choice. What is fixed
by the paper or by Seaweed-7B's published figures: the 4x8x8 latent with 16 channels, 73-frame segments, 224x224 face
crops and one motion token a frame.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dreamactor.errors import InputError

TEMPORAL_STRIDE = 4
SPATIAL_STRIDE = 8
LATENT_CHANNELS = 16
CONTROL_CHANNELS = 6  # skeleton RGB + head sphere RGB
ATTENTIONS = ("dense", "fp8", "sliding")
SOLVERS = ("euler", "multistep")
FACE_SIZE = 224
POSE_CONTEXT = 1  # latent frames of controls encoded before a segment that carries a latent, and left out
DECODER_CONTEXT = 4  # latent frames decoded again before a segment's new ones: the causal decoder sees what came before


@dataclass(frozen=True)
class VAEConfig:
    """Causal 3D VAE. `patch` pixels a side are folded into channels; strided levels make up the rest of the 8x."""

    channels: tuple[int, ...]
    blocks: int
    patch: int = 1


@dataclass(frozen=True)
class PoseEncoderConfig:
    channels: tuple[int, ...]
    blocks: int = 1
    patch: int = 1
    out_channels: int = LATENT_CHANNELS


@dataclass(frozen=True)
class FaceEncoderConfig:
    """`stem` is the first convolution's patch; each further channel count is a stage that halves the grid."""

    channels: tuple[int, ...]
    blocks: int
    out_channels: int
    stem: int = 4


@dataclass(frozen=True)
class TransformerConfig:
    """`attention` is how self-attention is computed, the weights being the same: "dense"; in "fp8" (inference, made for
    head size 128); or "sliding", where noise tokens see the 3D tiles around them, for long clips. Only dense is
    exported. Raises InputError for any other.
    """

    dim: int
    depth: int
    num_heads: int
    ffn_ratio: float = 4.0
    patch: int = 2
    face_window: int = 1  # latent frames to either side whose face tokens are visible
    attention: str = "dense"

    def __post_init__(self) -> None:
        if self.attention not in ATTENTIONS:
            raise InputError(f"There is no attention '{self.attention}'; choose one of {', '.join(ATTENTIONS)}.")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


@dataclass(frozen=True)
class Preset:
    """One size of the whole system.

    `height`, `width` are the default output size in pixels (multiples of 16), `segment_frames` is 4k+1, `fps` the
    rate the driving clip is resampled to. Raises InputError for an unknown solver.
    """

    name: str
    height: int
    width: int
    segment_frames: int
    fps: int
    vae: VAEConfig
    pose_encoder: PoseEncoderConfig
    face_encoder: FaceEncoderConfig
    transformer: TransformerConfig
    steps: int = 8
    timestep_shift: float = 1.0  # larger grids need more of the steps at high noise
    solver: str = "multistep"
    guidance_scale: float = 2.5  # the paper's; 1 where it is in the weights

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise InputError(f"There is no solver '{self.solver}'; choose one of {', '.join(SOLVERS)}.")

    @property
    def latent_frames(self) -> int:
        return latent_frames(self.segment_frames)

    @property
    def rows(self) -> int:
        """Rows of a denoising step's batch with the preset's own guidance."""
        return rows(self.guidance_scale)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; dense attention is left out, so that they are those of files from before there was a choice."""
        values = dataclasses.asdict(self)
        if self.transformer.attention == "dense":
            del values["transformer"]["attention"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preset:
        """Inverse of `to_dict`; raises InputError naming unknown or missing keys, and values of no sense."""
        parts = {
            "vae": VAEConfig,
            "pose_encoder": PoseEncoderConfig,
            "face_encoder": FaceEncoderConfig,
            "transformer": TransformerConfig,
        }
        try:
            nested = {key: part(**_tuples(values[key])) for key, part in parts.items()}
            described = cls(**{**values, **nested})
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"Preset description does not fit this version: {error}.") from error
        for part in (described, *nested.values()):
            _check_values(part)
        height, width, frames = described.height, described.width, described.segment_frames
        if height % 16 or width % 16 or frames % TEMPORAL_STRIDE != 1 or min(height, width, frames - 1) < 1:
            raise InputError(
                f"Preset description has {height}x{width} and segments of {frames} frames: sizes are multiples of 16, "
                "and frames, from 5 on, one more than a multiple of 4."
            )
        return described


def _check_values(part: Any) -> None:
    """Raises InputError for a field that is of another type than its own, negative or endless."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.type in _FITS and not (_FITS[field.type](value) and (value or field.name in _MAY_BE_ZERO)):
            raise InputError(f"Preset description has {field.name} {value!r}, which is no {field.type} of any use.")


_MAY_BE_ZERO = ("blocks", "face_window", "guidance_scale")
_FITS: dict[Any, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: type(value) is int and value >= 0,
    "float": lambda value: type(value) in (int, float) and 0 <= value < math.inf,
    "tuple[int, ...]": lambda value: isinstance(value, tuple) and all(type(n) is int and n > 0 for n in value),
}


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def rows(guidance_scale: float) -> int:
    """Rows of a denoising step's batch: a second one, without the conditions, where there is guidance."""
    return 1 if guidance_scale == 1 else 2


def latent_frames(frames: int) -> int:
    """Latent frames of a clip of `frames` = 4k+1 video frames."""
    return 1 + (frames - 1) // TEMPORAL_STRIDE


def video_frames(latents: int) -> int:
    """Video frames that `latents` latent frames decode to."""
    return 1 + (latents - 1) * TEMPORAL_STRIDE


PRESETS = {
    "tiny": Preset(
        name="tiny", height=64, width=64, segment_frames=9, fps=12, steps=3,
        vae=VAEConfig(channels=(16, 16, 24), blocks=1, patch=4),
        pose_encoder=PoseEncoderConfig(channels=(16, 16, 24), patch=4),
        face_encoder=FaceEncoderConfig(channels=(8, 16), blocks=1, out_channels=32, stem=16),
        transformer=TransformerConfig(dim=64, depth=2, num_heads=2),
    ),
    "puppet": Preset(
        name="puppet", height=128, width=128, segment_frames=25, fps=12, steps=2, solver="euler", guidance_scale=1.0,
        vae=VAEConfig(channels=(128, 160, 224), blocks=1, patch=8),
        pose_encoder=PoseEncoderConfig(channels=(64, 64, 96), patch=8),
        face_encoder=FaceEncoderConfig(channels=(64, 96, 128), blocks=1, out_channels=64, stem=16),
        transformer=TransformerConfig(dim=256, depth=6, num_heads=4, ffn_ratio=3.0, patch=1),  # a face is few cells
    ),
    "m1": Preset(
        name="m1", height=640, width=960, segment_frames=73, fps=24, steps=30, timestep_shift=5.0,
        vae=VAEConfig(channels=(128, 256, 512, 512), blocks=2),
        pose_encoder=PoseEncoderConfig(channels=(32, 64, 128, 256)),
        face_encoder=FaceEncoderConfig(channels=(64, 128, 256, 512, 512), blocks=2, out_channels=512),
        transformer=TransformerConfig(dim=4096, depth=28, num_heads=32),
    ),
}  # fmt: skip


def preset(name: str) -> Preset:
    """The preset called `name`; raises InputError listing the choices."""
    if name not in PRESETS:
        raise InputError(f"There is no preset '{name}'; choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]
