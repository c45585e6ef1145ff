"""The five graphs that become engines: bytes in and out where there are pixels, a whole step where there is a solver.

Each wrapper is the plain PyTorch form of one ONNX file; `graph` pairs it with named example inputs and the dimensions
that stay free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.export import Dim

from dreamactor.interfaces import MAX_REFERENCES, Size, interface, random_inputs
from dreamactor.networks import Networks
from dreamactor.networks.transformer import Transformer
from dreamactor.presets import Preset


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
        return self.pose_encoder(control.float() / 255)


class FaceMotionEncoderGraph(nn.Module):
    """faces u8 [1,T,3,224,224] -> motion [1,T,c]."""

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.face_encoder = networks.face_encoder

    def forward(self, faces: Tensor) -> Tensor:
        return self.face_encoder(faces.float() / 127.5 - 1)


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


_MODULES: Mapping[str, Callable[[Networks], nn.Module]] = {
    "vae_encoder": VAEEncoderGraph,
    "vae_decoder": VAEDecoderGraph,
    "pose_encoder": PoseEncoderGraph,
    "face_motion_encoder": FaceMotionEncoderGraph,
    "denoiser": DenoiserGraph,
}


def graph(networks: Networks, name: str) -> Graph:
    """The graph called `name` (one of `interfaces.NETWORKS`), with example inputs at the preset's default size."""
    ports, lengths = interface(networks.preset, name), _lengths()
    dynamic = {key: {axis: lengths[word] for axis, word in port.free.items()} for key, port in ports.inputs.items()}
    example = example_inputs(networks.preset, name)
    return Graph(name, _MODULES[name](networks), example, tuple(ports.outputs), dynamic)


def _lengths() -> dict[str, object]:
    """What `interfaces.Port` calls the dimensions that vary, as expressions in those that are independent."""
    chunks, rows, columns = Dim("chunks", min=1, max=256), Dim("rows", min=2, max=256), Dim("columns", min=2, max=256)
    return {
        "frames": 4 * chunks + 1, "latents": chunks + 1, "height": 16 * rows, "width": 16 * columns,
        "rows": 2 * rows, "columns": 2 * columns, "batch": Dim("batch", min=1, max=2),
        "references": Dim("references", min=1, max=MAX_REFERENCES),
    }  # fmt: skip


def example_size(preset: Preset) -> Size:
    """The preset's segment with more than one of everything that varies: an exporter takes 1 for a constant."""
    return replace(Size.of(preset), references=2, batch=2)


def example_inputs(preset: Preset, name: str, size: Size | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of a graph, by name, at `example_size` if no other is given."""
    drawn = random_inputs(preset, name, size or example_size(preset), seed)
    return {key: torch.from_numpy(value) for key, value in drawn.items()}
