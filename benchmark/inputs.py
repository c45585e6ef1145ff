"""What is measured with: fresh random tensors for engines, a real photo and a real clip for the rest. No torch."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import av
import numpy as np

from dreamactor.engines.session import Array
from dreamactor.motion.assets import media_file
from dreamactor.presets import CONTROL_CHANNELS, FACE_SIZE, LATENT_CHANNELS, SPATIAL_STRIDE, Preset, latent_frames

REFERENCE, CLIP = "astronaut.png", "WolfgangLanger_Pexels.mp4"


@dataclass(frozen=True)
class Size:
    """Video frames (4k+1), pixels, reference images, and 2 rows for guidance or 1 without."""

    frames: int
    height: int
    width: int
    references: int = 1
    batch: int = 2

    @classmethod
    def of(cls, preset: Preset) -> Size:
        """A whole segment at the preset's default size, with its guidance."""
        return cls(preset.segment_frames, preset.height, preset.width, batch=preset.rows)

    @property
    def latent(self) -> tuple[int, int, int]:
        """Latent frames, rows, columns."""
        return latent_frames(self.frames), self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}, {self.references} reference(s), batch {self.batch}"


@dataclass(frozen=True)
class Media:
    """Encoded photo and clip."""

    reference: bytes
    driving: bytes


def media() -> Media:
    """The demo photo and clip; raises MissingDependency with the command that fetches them."""
    return Media(media_file(REFERENCE).read_bytes(), media_file(CLIP).read_bytes())


def lengthened(clip: bytes, seconds: float) -> bytes:
    """The video of an encoded clip, over and over until it lasts `seconds` or more, as MP4 without sound.

    The packets are copied, not encoded anew.
    """
    target = io.BytesIO()
    with av.open(io.BytesIO(clip), "r") as source, av.open(target, "w", format="mp4") as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        once = stream.duration or 1
        for turn in range(math.ceil(seconds / float(once * (stream.time_base or 1)))):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.pts is None or packet.dts is None:
                    continue  # the demuxer's last, empty one
                packet.pts += turn * once
                packet.dts += turn * once
                packet.stream = copy
                output.mux(packet)
    return target.getvalue()


def network_inputs(preset: Preset, name: str, size: Size, seed: int) -> dict[str, Array]:
    """Random inputs of network `name`, never zeros: they hide unwritten outputs and run faster than data."""
    generator = np.random.Generator(np.random.PCG64([seed, len(name)]))
    latent, grid = size.latent, size.latent[1:]

    def pixels(*shape: int) -> Array:
        return generator.integers(0, 256, shape, np.uint8)

    def normal(*shape: int) -> Array:
        return generator.standard_normal(shape, np.float32)

    if name == "vae_encoder":
        return {"video": pixels(1, 3, size.frames, size.height, size.width)}
    if name == "vae_decoder":
        return {"latent": normal(1, LATENT_CHANNELS, *latent)}
    if name == "pose_encoder":
        return {"control": pixels(1, CONTROL_CHANNELS, size.frames, size.height, size.width)}
    if name == "face_motion_encoder":
        return {"faces": pixels(1, size.frames, 3, FACE_SIZE, FACE_SIZE)}
    pose_channels = preset.pose_encoder.out_channels
    known = np.zeros(latent[0], np.float32)
    known[0] = 1
    return {
        "latent": normal(1, LATENT_CHANNELS, *latent),
        "velocity_previous": normal(1, LATENT_CHANNELS, *latent),
        "timestep": np.array([0.7], np.float32),
        "known": known,
        "guidance_scale": np.array([2.5], np.float32),
        "coefficients": np.array([1.0, -0.15, 0.05], np.float32),
        "pose_latent": normal(size.batch, pose_channels, *latent),
        "motion": normal(size.batch, size.frames, preset.face_encoder.out_channels),
        "reference_latent": normal(size.batch, size.references, LATENT_CHANNELS, *grid),
        "reference_pose": normal(size.batch, size.references, pose_channels, *grid),
    }
