"""What goes into each network's graph and what comes out: the table that exporting, building, checking and measuring
read. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamactor.errors import InputError
from dreamactor.presets import CONTROL_CHANNELS, FACE_SIZE, LATENT_CHANNELS, SPATIAL_STRIDE, Preset, video_frames

NETWORKS = ("vae_encoder", "vae_decoder", "pose_encoder", "face_motion_encoder", "denoiser")
MAX_REFERENCES = 8

Shape = tuple[int, ...]
_GRID = ("latents", "rows", "columns")
_PICTURES = ("frames", "height", "width")


@dataclass(frozen=True)
class Size:
    """All that varies from run to run: latent frames, pixels, reference photos, and rows of the batch (2 with guidance,
    1 without)."""

    latents: int
    height: int
    width: int
    references: int = 1
    batch: int = 2

    @classmethod
    def of(cls, preset: Preset) -> Size:
        """A whole segment of the preset's own size, with its guidance."""
        return cls(preset.latent_frames, preset.height, preset.width, batch=preset.rows)

    @property
    def frames(self) -> int:
        return video_frames(self.latents)

    @property
    def rows(self) -> int:
        return self.height // SPATIAL_STRIDE

    @property
    def columns(self) -> int:
        return self.width // SPATIAL_STRIDE

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}, {self.references} reference(s), batch {self.batch}"


@dataclass(frozen=True)
class Port:
    """One tensor: its numpy type, and its shape, where a word is a dimension that varies: a property of `Size`."""

    dtype: str
    shape: tuple[int | str, ...]

    def at(self, size: Size) -> Shape:
        return tuple(length if isinstance(length, int) else getattr(size, length) for length in self.shape)

    @property
    def free(self) -> dict[int, str]:
        """The words, by axis."""
        return {axis: length for axis, length in enumerate(self.shape) if isinstance(length, str)}


@dataclass(frozen=True)
class Interface:
    """A network's inputs and outputs by name."""

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]

    def input_shapes(self, size: Size) -> dict[str, Shape]:
        return {name: port.at(size) for name, port in self.inputs.items()}


def interface(preset: Preset, network: str) -> Interface:
    """Of one of `NETWORKS`; raises InputError for another name."""
    pose, motion = preset.pose_encoder.out_channels, preset.face_encoder.out_channels
    latent, video = _floats(1, LATENT_CHANNELS, *_GRID), _bytes(1, 3, *_PICTURES)
    ports: dict[str, tuple[dict[str, Port], dict[str, Port]]] = {
        "vae_encoder": ({"video": video}, {"latent": latent}),
        "vae_decoder": ({"latent": latent}, {"video": video}),
        "pose_encoder": (
            {"control": _bytes(1, CONTROL_CHANNELS, *_PICTURES)},
            {"pose_latent": _floats(1, pose, *_GRID)},
        ),
        "face_motion_encoder": (
            {"faces": _bytes(1, "frames", 3, FACE_SIZE, FACE_SIZE)},
            {"motion": _floats(1, "frames", motion)},
        ),
        "denoiser": (
            {
                "latent": latent,
                "velocity_previous": latent,
                "timestep": _floats(1),
                "known": _floats("latents"),
                "guidance_scale": _floats(1),
                "coefficients": _floats(3),
                "pose_latent": _floats("batch", pose, *_GRID),
                "motion": _floats("batch", "frames", motion),
                "reference_latent": _floats("batch", "references", LATENT_CHANNELS, "rows", "columns"),
                "reference_pose": _floats("batch", "references", pose, "rows", "columns"),
            },
            {"latent_next": latent, "velocity": latent},
        ),
    }
    if network not in ports:
        raise InputError(f"There is no network '{network}'; choose one of {', '.join(NETWORKS)}.")
    return Interface(*ports[network])


def random_inputs(preset: Preset, network: str, size: Size, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Inputs of `network` as a pipeline could send them, the same for the same seed: noise, of which the denoiser is
    told that it is in the middle of a segment's steps and that its first latent frame is known."""
    generator = np.random.Generator(np.random.PCG64([seed, NETWORKS.index(network)]))

    def draw(name: str, port: Port) -> NDArray[Any]:
        shape = port.at(size)
        if name == "known":
            return np.array([1, *[0] * (size.latents - 1)], np.float32)
        if name in _SETTINGS:
            return np.array(_SETTINGS[name], np.float32)
        if port.dtype == "uint8":
            return generator.integers(0, 256, shape, np.uint8)
        return generator.standard_normal(shape, np.float32)

    return {name: draw(name, port) for name, port in interface(preset, network).inputs.items()}


_SETTINGS = {"timestep": [0.7], "guidance_scale": [2.5], "coefficients": [1.0, -0.15, 0.05]}


def _floats(*shape: int | str) -> Port:
    return Port("float32", shape)


def _bytes(*shape: int | str) -> Port:
    return Port("uint8", shape)
