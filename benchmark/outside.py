"""An outside reference for the transformer: diffusers' WanAnimateTransformer3DModel at our width, depth and tokens.

Not the same network: it attends to 512 text tokens in every block where ours attends to the face, and to the face in
every fifth or so. Its weights are random, and its face encoder is left out of the clock as ours is. So it
only says roughly how long an independent PyTorch implementation of such a network of this size takes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from dreamactor.benchmark.statistics import paired_ratio
from dreamactor.benchmark.timing import interleave
from dreamactor.benchmark.torch_engines import Place
from dreamactor.engines import Engines
from dreamactor.engines.onnxruntime import available_threads
from dreamactor.errors import MissingDependency
from dreamactor.interfaces import Size, random_inputs
from dreamactor.presets import Preset

TEXT_TOKENS = 512


def compare_with_wan(engines: Engines, rounds: int) -> dict[str, Any]:
    """Our denoiser engine and diffusers' eager network on the same device, interleaved, both with the preset's guidance
    (a batch of two where there is some).

    Raises MissingDependency without diffusers, or torch for that device.
    """
    preset, size, place = engines.preset, Size.of(engines.preset), Place.beside(engines.manifest)
    inputs = random_inputs(preset, "denoiser", size, seed=5)
    cases = {"ours": partial(engines.session("denoiser").run, inputs), "theirs": wan_animate(preset, size, place)}
    timings = interleave(cases, rounds)
    return {
        "seconds": {name: timing.median().to_dict() for name, timing in timings.items()},
        "theirs_over_ours": paired_ratio(timings["theirs"].seconds, timings["ours"].seconds).to_dict(),
        "device": place.device,
        "dtype": place.dtype,
        "note": "equal width, depth, heads and video tokens; text instead of face attention; random weights; eager",
    }


def wan_animate(preset: Preset, size: Size, place: Place) -> Any:
    """A call that evaluates diffusers' network once at `size`, on random inputs, in the type and on the device of
    `place`, and waits for it."""
    try:
        import torch
        from diffusers import WanAnimateTransformer3DModel
    except ImportError as error:
        raise MissingDependency(
            "The outside reference needs diffusers: pip install 'dreamactor[bench]' (make bench installs it)."
        ) from error
    torch.set_num_threads(available_threads())
    config = preset.transformer
    network: Any = WanAnimateTransformer3DModel  # untyped
    model = network(
        patch_size=(1, config.patch, config.patch),
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        ffn_dim=int(config.dim * config.ffn_ratio),
        num_layers=config.depth,
        text_dim=config.dim,
        image_dim=None,
        motion_encoder_size=16,
        motion_encoder_dim=config.dim,
        face_encoder_hidden_dim=config.dim,
        face_encoder_num_heads=config.num_heads,
        inject_face_latents_blocks=next(n for n in (5, 4, 3, 2, 1) if config.depth % n == 0),  # it must divide
    ).eval()
    frames, rows, columns = size.latents, size.rows, size.columns
    motion = torch.randn(size.batch * size.frames, config.dim).to(place.device, place.torch_dtype)

    class Encoded(torch.nn.Module):
        """Motion vectors made beforehand, as ours are."""

        def forward(self, faces: Any) -> Any:
            return motion[: len(faces)]

    model.motion_encoder = Encoded()
    tensors = {
        "hidden_states": torch.randn(size.batch, 36, frames + 1, rows, columns),
        "timestep": torch.full((size.batch,), 700),
        "encoder_hidden_states": torch.randn(size.batch, TEXT_TOKENS, config.dim),
        "pose_hidden_states": torch.randn(size.batch, 16, frames, rows, columns),
        "face_pixel_values": torch.randn(size.batch, 3, size.frames, 16, 16),
    }

    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        exact = any(part in name.split(".") for part in model._keep_in_fp32_modules)  # as its from_pretrained does
        tensor.data = tensor.data.to(place.device, tensor.dtype if exact else place.torch_dtype)
    given = {
        name: tensor.to(place.device, place.torch_dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in tensors.items()
    }

    def run() -> Any:
        with torch.inference_mode():
            return model(**given, return_dict=False)[0].cpu()

    return run
