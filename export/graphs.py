"""The five graphs that become engines: bytes in and out where there are pixels, a whole step where there is a solver.

Each wrapper is the plain PyTorch form of one ONNX file; `graph` pairs it with named example inputs and the dimensions
that stay free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim

from dreamactor.networks import Networks
from dreamactor.networks.transformer import Transformer
from dreamactor.presets import CONTROL_CHANNELS, FACE_SIZE, LATENT_CHANNELS, SPATIAL_STRIDE, Preset, latent_frames

NETWORKS = ("vae_encoder", "vae_decoder", "pose_encoder", "face_motion_encoder", "denoiser")


class VAEEncoderGraph(nn.Module):
    """video u8 [1,3,T,H,W] -> latent [1,16,T',H/8,W/8]."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.vae = networks.vae

    def forward(self, video: Tensor) -> Tensor:
        return self.vae.latent(video.float() / 127.5 - 1)


class VAEDecoderGraph(nn.Module):
    """latent [1,16,T',h,w] -> video u8 [1,3,4(T'-1)+1,8h,8w]."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.vae = networks.vae

    def forward(self, latent: Tensor) -> Tensor:
        pixels = (self.vae.decode(latent) + 1) * 127.5
        return pixels.clamp(0, 255).round().to(torch.uint8)


class PoseEncoderGraph(nn.Module):
    """control u8 [1,6,T,H,W] -> pose_latent [1,16,T',H/8,W/8]."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.pose_encoder = networks.pose_encoder

    def forward(self, control: Tensor) -> Tensor:
        out: Tensor = self.pose_encoder(control.float() / 255)
        return out


class FaceMotionEncoderGraph(nn.Module):
    """faces u8 [1,T,3,224,224] -> motion [1,T,c]."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.face_encoder = networks.face_encoder

    def forward(self, faces: Tensor) -> Tensor:
        out: Tensor = self.face_encoder(faces.float() / 127.5 - 1)
        return out


class DenoiserGraph(nn.Module):
    """One denoising step: the transformer, classifier-free guidance and the solver's update.

    With a batch of two, row 0 holds the conditions and row 1 zeros; with a batch of one there is no guidance.
    `known` is 1 for latent frames that are clean and stay as they are. The update is a*x + b*v + c*v_previous.
    """

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.transformer: Transformer = networks.transformer

    def forward(
        self,
        latent: Tensor,
        velocity_previous: Tensor,
        timestep: Tensor,
        known: Tensor,
        guidance_scale: Tensor,
        coefficients: Tensor,
        pose_latent: Tensor,
        motion: Tensor,
        reference_latent: Tensor,
        reference_pose: Tensor,
    ) -> tuple[Tensor, Tensor]:
        batch = pose_latent.shape[0]
        frame_times = (timestep * (1 - known))[None].expand(batch, -1)
        both = self.transformer(
            latent.expand(batch, -1, -1, -1, -1), frame_times, pose_latent, motion, reference_latent, reference_pose
        )
        conditional, null = both[:1], both[-1:]
        velocity = null + guidance_scale * (conditional - null)
        moved = coefficients[0] * latent + coefficients[1] * velocity + coefficients[2] * velocity_previous
        keep = known[:, None, None]
        return keep * latent + (1 - keep) * moved, velocity


@dataclass(frozen=True)
class Graph:
    """A module with named example inputs, output names and its free dimensions (input name -> axis -> Dim)."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, object]]


def graph(networks: Networks, name: str) -> Graph:
    """The graph called `name` (one of NETWORKS), with example inputs at the preset's default size."""
    chunks, rows, columns = Dim("chunks", min=1, max=256), Dim("rows", min=2, max=256), Dim("columns", min=2, max=256)
    frames, latents = 4 * chunks + 1, chunks + 1
    example = example_inputs(networks.preset, name)
    pixels = {2: frames, 3: 16 * rows, 4: 16 * columns}
    grid = {2: latents, 3: 2 * rows, 4: 2 * columns}
    if name == "vae_encoder":
        return Graph(name, VAEEncoderGraph(networks), example, ("latent",), {"video": pixels})
    if name == "vae_decoder":
        return Graph(name, VAEDecoderGraph(networks), example, ("video",), {"latent": grid})
    if name == "pose_encoder":
        return Graph(name, PoseEncoderGraph(networks), example, ("pose_latent",), {"control": pixels})
    if name == "face_motion_encoder":
        return Graph(name, FaceMotionEncoderGraph(networks), example, ("motion",), {"faces": {1: frames}})
    if name != "denoiser":
        raise ValueError(f"no graph '{name}'; choose one of {', '.join(NETWORKS)}")
    batch, references = Dim("batch", min=1, max=2), Dim("references", min=1, max=8)
    reference: dict[int, object] = {0: batch, 1: references, 3: 2 * rows, 4: 2 * columns}
    dynamic: dict[str, dict[int, object]] = {
        "latent": dict(grid), "velocity_previous": dict(grid), "timestep": {}, "known": {0: latents},
        "guidance_scale": {}, "coefficients": {}, "pose_latent": {0: batch, **grid}, "motion": {0: batch, 1: frames},
        "reference_latent": reference, "reference_pose": reference,
    }  # fmt: skip
    return Graph(name, DenoiserGraph(networks), example, ("latent_next", "velocity"), dynamic)


def example_inputs(
    preset: Preset,
    name: str,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    references: int = 2,
    batch: int = 2,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Random inputs of a graph, by name; sizes default to the preset's segment."""
    generator = torch.Generator().manual_seed(seed)
    frames, height, width = frames or preset.segment_frames, height or preset.height, width or preset.width
    latents, rows, columns = latent_frames(frames), height // SPATIAL_STRIDE, width // SPATIAL_STRIDE

    def pixels(*shape: int) -> Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    if name == "vae_encoder":
        return {"video": pixels(1, 3, frames, height, width)}
    if name == "vae_decoder":
        return {"latent": normal(1, LATENT_CHANNELS, latents, rows, columns)}
    if name == "pose_encoder":
        return {"control": pixels(1, CONTROL_CHANNELS, frames, height, width)}
    if name == "face_motion_encoder":
        return {"faces": pixels(1, frames, 3, FACE_SIZE, FACE_SIZE)}
    known = torch.zeros(latents)
    known[0] = 1
    return {
        "latent": normal(1, LATENT_CHANNELS, latents, rows, columns),
        "velocity_previous": normal(1, LATENT_CHANNELS, latents, rows, columns),
        "timestep": torch.tensor([0.7]),
        "known": known,
        "guidance_scale": torch.tensor([2.5]),
        "coefficients": torch.tensor([1.0, -0.15, 0.05]),
        "pose_latent": normal(batch, preset.pose_encoder.out_channels, latents, rows, columns),
        "motion": normal(batch, frames, preset.face_encoder.out_channels),
        "reference_latent": normal(batch, references, LATENT_CHANNELS, rows, columns),
        "reference_pose": normal(batch, references, preset.pose_encoder.out_channels, rows, columns),
    }
