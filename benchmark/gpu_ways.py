"""The ways in which the GPU check evaluates a transformer of m1's width: PyTorch eager, compiled, our kernels in bf16,
FP8, and these two with the rest compiled around them.

FP8 is in the products of the blocks (E4M3, a scale for each row and column, `torch._scaled_mm`) and in attention.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dreamactor import kernels
from dreamactor.kernels import reference
from dreamactor.networks import transformer
from dreamactor.presets import LATENT_CHANNELS, TransformerConfig, video_frames

OURS, FP8 = ("kernels", "kernels compiled"), ("fp8", "fp8 compiled")
WAYS = ("eager", "compiled", *OURS, *FP8)
KERNELS = ("two_segment_attention", "norm_rope", "face_attention", "modulate_norm")
PLAIN = SimpleNamespace(**{name: getattr(reference, name) for name in KERNELS})  # one object: compiled code asks for it
Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Grid:
    """Latent frames, rows and columns of the video (rows and columns even); one reference of a frame's size."""

    frames: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        return self.frames * self.rows * self.columns // 4


class Fp8Linear(nn.Module):
    """A linear layer whose product runs in E4M3: weights scaled by column once, inputs by row in each call."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / reference.FP8_MAX
        self.weight, self.scale = (weight / scale).to(torch.float8_e4m3fn), scale.t().contiguous()
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        scale = rows.abs().amax(1, keepdim=True).float().clamp_min(1e-12) / reference.FP8_MAX
        rounded = (rows.float() / scale).to(torch.float8_e4m3fn)
        out: Tensor = torch._scaled_mm(rounded, self.weight.t(), scale, self.scale, bias=self.bias, out_dtype=x.dtype)
        return out.reshape(*x.shape[:-1], -1)


def model(config: TransformerConfig, depth: int, device: str, dtype: torch.dtype) -> transformer.Transformer:
    """A transformer of `config`'s width with random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        built = transformer.Transformer(dataclasses.replace(config, depth=depth), 512, LATENT_CHANNELS)
    return built.to(dtype).eval()


def inputs(grid: Grid, device: str, dtype: torch.dtype, seed: int = 1) -> tuple[Tensor, ...]:
    """Random inputs of `Transformer.forward`, a batch of one; guidance doubles both batch and time."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(dtype)

    frames, size = grid.frames, (grid.rows, grid.columns)
    return (
        normal(1, LATENT_CHANNELS, frames, *size), torch.full((1, frames), 0.7, device=device, dtype=dtype),
        normal(1, LATENT_CHANNELS, frames, *size), normal(1, video_frames(frames), 512),
        normal(1, 1, LATENT_CHANNELS, *size), normal(1, 1, LATENT_CHANNELS, *size),
    )  # fmt: skip


@contextmanager
def using(functions: SimpleNamespace) -> Iterator[None]:
    """Inside, the transformer calls these functions in place of the kernels of the same names."""
    before = vars(transformer)["kernels"]
    vars(transformer)["kernels"] = functions
    try:
        yield
    finally:
        vars(transformer)["kernels"] = before


def plain() -> AbstractContextManager[None]:
    """Inside, every kernel is its reference in PyTorch, as without this project."""
    return using(PLAIN)


def to_fp8(network: transformer.Transformer) -> None:
    """Replaces the linear layers of the blocks, in place; embeddings and the last projection stay as they are."""
    for block in network.blocks:
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear):
                parent, _, leaf = name.rpartition(".")
                setattr(block.get_submodule(parent), leaf, Fp8Linear(layer))


def operations(config: TransformerConfig, depth: int, grid: Grid) -> int:
    """Operations of one evaluation, counted by PyTorch on tensors without memory."""
    with plain(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = model(config, depth, "meta", torch.bfloat16)
        shapes = [torch.empty(t.shape, device="meta", dtype=t.dtype) for t in inputs(grid, "cpu", torch.bfloat16)]
        network(*shapes)
    return int(counter.get_total_flops())


def ways(network: transformer.Transformer, given: tuple[Tensor, ...], wanted: Collection[str]) -> dict[str, Call]:
    """One evaluation of the network in each way wanted, eager first."""
    ours = SimpleNamespace(**{name: getattr(kernels, name) for name in KERNELS})
    made: dict[str, Call] = {
        "eager": partial(_under, PLAIN, network, given),
        "compiled": partial(_under, PLAIN, torch.compile(network, dynamic=False), given),
        "kernels": partial(_under, ours, network, given),
        "kernels compiled": partial(_under, ours, torch.compile(network, dynamic=False), given),
    }
    if set(FP8) & set(wanted):
        low = copy.deepcopy(network)
        to_fp8(low)
        theirs = SimpleNamespace(**{**vars(ours), "two_segment_attention": kernels.fp8_attention})
        made[FP8[0]] = partial(_under, theirs, low, given)
        made[FP8[1]] = partial(_under, theirs, torch.compile(low, dynamic=False), given)
    return {name: call for name, call in made.items() if name in wanted}


def _under(functions: SimpleNamespace, network: Callable[..., Tensor], given: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad(), using(functions):
        return network(*given)
