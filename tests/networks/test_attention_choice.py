"""How self-attention is computed is a choice beside the weights: dense, in E4M3, or over sliding tiles."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamactor.errors import InputError
from dreamactor.networks import build, load
from dreamactor.networks.transformer import Transformer
from dreamactor.presets import Preset, preset

TINY = preset("tiny")


def choosing(attention: str) -> Preset:
    return dataclasses.replace(TINY, transformer=dataclasses.replace(TINY.transformer, attention=attention))


def transformer(attention: str) -> Transformer:
    return build(choosing(attention), seed=3).requires_grad_(False).transformer


def conditions(frames: int, size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    shape = (1, 16, frames, size, size)
    return {
        "latent": torch.randn(shape, generator=generator), "timestep": torch.full((1, frames), 0.6),
        "pose_latent": torch.randn(shape, generator=generator),
        "motion": torch.randn(1, 4 * frames - 3, TINY.face_encoder.out_channels, generator=generator),
        "reference_latent": torch.randn(1, 2, 16, size, size, generator=generator),
        "reference_pose": torch.randn(1, 2, 16, size, size, generator=generator),
    }  # fmt: skip


def difference(attention: str, inputs: dict[str, Any]) -> float:
    dense, other = transformer("dense")(**inputs), transformer(attention)(**inputs)
    return float((other - dense).norm() / dense.norm())


def test_sliding_is_dense_where_the_window_covers_all() -> None:
    assert difference("sliding", conditions(5, 8)) < 1e-5


def test_sliding_leaves_out_what_is_far_and_is_near_all_the_same() -> None:
    """16x16 tokens a frame are two by four tiles, of which a window of three leaves one column out."""
    assert 1e-6 < difference("sliding", conditions(3, 32)) < 0.05


def test_fp8_is_near_dense() -> None:
    assert 1e-6 < difference("fp8", conditions(3, 16)) < 0.05


def test_only_dense_is_exported(tmp_path: Path) -> None:
    from dreamactor.export.onnx import export_network

    with pytest.raises(InputError, match="attention is 'fp8', which is not exported"):
        torch.export.export(transformer("fp8"), (), conditions(3, 8))
    sliding = choosing("sliding")
    with pytest.raises(Exception, match="which is not exported") as caught:
        export_network(sliding, build(sliding).state_dict(), "denoiser", tmp_path / "denoiser.onnx")
    causes, cause = [], caught.value
    while cause is not None:
        causes.append(type(cause))
        cause = cause.__cause__  # type: ignore[assignment]
    assert InputError in causes


def test_descriptions_from_before_the_choice_are_read_and_stay_as_they_were() -> None:
    old = TINY.to_dict()
    assert "attention" not in old["transformer"]
    assert Preset.from_dict(old) == TINY
    for attention in ("fp8", "sliding"):
        chosen = choosing(attention)
        assert Preset.from_dict(chosen.to_dict()) == chosen
    with pytest.raises(InputError, match="choose one of dense, fp8, sliding"):
        choosing("sparse")


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "size", "bound"), [(7, (8, 8), 1e-4), (7, (16, 16), 0.4), (7, (16, 24), 0.4)])
def test_sliding_on_the_shipped_checkpoint(frames: int, size: tuple[int, int], bound: float) -> None:
    """64x64 pixels lie within the window; at the checkpoint's own 128x128 three quarters of the products are computed,
    at 128x192 half. -s shows the errors."""
    networks = load(Path(__file__).resolve().parents[2] / "checkpoints" / "puppet").requires_grad_(False)
    found = networks.preset.transformer
    channels = (networks.preset.face_encoder.out_channels, networks.preset.pose_encoder.out_channels)
    sliding = Transformer(dataclasses.replace(found, attention="sliding"), *channels)
    sliding.load_state_dict(networks.transformer.state_dict())
    generator = torch.Generator().manual_seed(0)
    pixels = (size[0] * 8, size[1] * 8)
    photo = torch.rand(1, 3, pixels[0] // 16, pixels[1] // 16, generator=generator) * 2 - 1
    clean = networks.vae.latent(torch.nn.functional.interpolate(photo, scale_factor=16, mode="bilinear")[:, :, None])
    noise = torch.randn(1, 16, frames, *size, generator=generator)
    pose = networks.pose_encoder(-torch.ones(1, 6, 4 * frames - 3, *pixels))
    motion = torch.randn(1, 4 * frames - 3, channels[0], generator=generator)
    references = (clean.transpose(1, 2), pose[:, :, :1].transpose(1, 2))
    for timestep in (1.0, 0.5):
        inputs = (
            timestep * noise + (1 - timestep) * clean,
            torch.full((1, frames), timestep),
            pose,
            motion,
            *references,
        )
        with torch.no_grad():
            dense, other = networks.transformer(*inputs), sliding(*inputs)
        error = float((other - dense).norm() / dense.norm())
        print(f"{size}, timestep {timestep}: relative error of the velocity {error:.3f}")
        assert error < bound
