"""The same networks in PyTorch, eager and compiled, behind the same pipeline: what one would use instead.

They have the set's own weights and run where the set runs, on the CPU or the GPU. Beside engines in a half type their
weights are cast to that type once, as one runs PyTorch there; what the engines keep in float32 between the networks,
above all the solver, is float32 here too. They are timed only after their outputs were found equal on fresh inputs;
where they differ the report says so and gives no figure. In the harness's measured path torch is imported only here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamactor import paths
from dreamactor.benchmark.engine_sets import on_gpu
from dreamactor.checkpoints import read_preset
from dreamactor.engines import NETWORKS, Engines, Manifest, Session
from dreamactor.engines.onnxruntime import available_threads
from dreamactor.engines.session import Array
from dreamactor.errors import InputError, MissingDependency
from dreamactor.export.recipes import recipe
from dreamactor.fidelity import relative_error
from dreamactor.interfaces import Size, random_inputs
from dreamactor.presets import Preset, latent_frames

if TYPE_CHECKING:
    from torch import nn

    from dreamactor.networks import Networks

RELATIVE_BOUND = 2e-2  # of float outputs; single-precision networks lie near 1e-5, half-precision ones near 1e-3
PIXEL_BOUND = 1.0  # mean difference of byte outputs, in levels of 255


@dataclass(frozen=True)
class Place:
    """Where PyTorch runs, "cpu" or "cuda", and the type of its networks: "float32" or a half one."""

    device: str = "cpu"
    dtype: str = "float32"

    @classmethod
    def beside(cls, manifest: Manifest) -> Place:
        """Where the set runs, in the type of what the set leaves unquantised; on the CPU always float32.

        Raises MissingDependency without a PyTorch for that device.
        """
        try:
            import torch
        except ImportError as error:
            raise MissingDependency("The PyTorch peers need torch: pip install 'dreamactor[export]'.") from error
        if not on_gpu(manifest):
            return cls()
        if not torch.cuda.is_available():
            raise MissingDependency(
                f"The set runs on the GPU and this PyTorch ({torch.__version__}) does not: install one for CUDA."
            )
        half = {"fp16": "float16", "bf16": "bfloat16"}
        return cls("cuda", half.get(recipe(manifest.precision, manifest.target).high, "float32"))

    @property
    def torch_dtype(self) -> Any:
        """PyTorch's own name of the type."""
        import torch

        return getattr(torch, self.dtype)


class TorchSession:
    """A network's PyTorch module as the pipeline's Session: arrays in, arrays out, waiting for the device."""

    def __init__(self, name: str, module: Any, like: Session, output_names: tuple[str, ...], place: Place) -> None:
        self.name, self.inputs, self.outputs = name, like.inputs, like.outputs
        self._module, self._output_names, self._place = module, output_names, place

    def compiled(self) -> TorchSession:
        """The same module, and so the same weights, behind torch.compile: specialised on each shape, compiled at its
        first run."""
        import torch

        module = torch.compile(self._module, dynamic=False)
        return TorchSession(self.name, module, self, self._output_names, self._place)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        import torch

        given = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in inputs.items()}
        with torch.inference_mode():
            out = self._module(**{key: value.to(self._place.device) for key, value in given.items()})
        values = out if isinstance(out, tuple) else (out,)
        return {key: _array(value) for key, value in zip(self._output_names, values, strict=True)}

    def close(self) -> None:
        self._module = None


@dataclass(frozen=True)
class Agreement:
    """Largest difference of a peer from the engine over all outputs of a network; `passed` if within the bound."""

    network: str
    difference: float
    passed: bool


def eager(engines: Engines, place: Place, checkpoint: Path | None = None) -> Engines:
    """The set's networks in eager PyTorch at `place`, with the weights of `checkpoint_of`."""
    import torch

    from dreamactor import networks
    from dreamactor.export.graphs import graph

    torch.set_num_threads(available_threads())
    preset, source = engines.preset, checkpoint_of(engines.manifest, checkpoint)
    model = networks.load(source, preset) if source else networks.build(preset)
    move(model, place)
    sessions: dict[str, Session] = {}
    for name in NETWORKS:
        item = graph(model, name)
        sessions[name] = TorchSession(name, item.module, engines.session(name), item.outputs, place)
    return Engines(preset, engines.manifest, sessions)


def compiled(engines: Engines) -> Engines:
    """The engines of `eager` behind torch.compile; both share their weights."""
    sessions: dict[str, Session] = {
        name: session.compiled() for name, session in engines.sessions.items() if isinstance(session, TorchSession)
    }
    return replace(engines, sessions=sessions)


def move(model: Networks, place: Place) -> None:
    """Moves the networks to `place`, each tensor to its device and type at once. In a half type they cast their inputs,
    except the timesteps, and give float32."""
    for network in (model.vae.encoder, model.vae.decoder, model.pose_encoder, model.face_encoder, model.transformer):
        network.to(place.device, place.torch_dtype)
        if place.dtype != "float32":
            timestep = 1 if network is model.transformer else None  # bfloat16 holds 0.7 as 0.699
            _cast_inputs(network, place.torch_dtype, timestep)
    model.to(place.device)  # what is left, the latents' statistics, stays float32


def _cast_inputs(network: nn.Module, dtype: Any, exact: int | None) -> None:
    """Casts every input but the one at `exact`, and the output to float32."""

    def lower(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x if index == exact else x.to(dtype) for index, x in enumerate(inputs))

    network.register_forward_pre_hook(lower)
    network.register_forward_hook(lambda module, inputs, output: output.float())


def checkpoint_of(manifest: Manifest, given: Path | None = None) -> Path | None:
    """The checkpoint that a set was built from, by the manifest's hash: `given`, or the one that ships, or None for the
    random weights of `networks.build`.

    Raises InputError where none of them is.
    """
    built = {record.weights_sha256 for record in manifest.networks.values()}
    for folder in (given,) if given else (paths.checkpoint(manifest.preset.name), None):
        if built == {_weights(manifest.preset, folder)}:
            return folder
    what = f"from {given}" if given else "from the shipped checkpoint or random weights"
    raise InputError(
        f"The engine set was not built {what} (its weights are {', '.join(sorted(built))[:16] or 'unknown'}): give the "
        "checkpoint that it was built from with --checkpoint, beside --engines."
    )


def _weights(preset: Preset, checkpoint: Path | None) -> str:
    """The hash that the manifest of a set built from this checkpoint, or from random weights, has."""
    from dreamactor.production.keys import weights_key

    if checkpoint is not None:
        read_preset(checkpoint)
    return weights_key(preset, checkpoint)


def plain() -> AbstractContextManager[None]:
    """Inside, the networks in PyTorch run without our kernels on a GPU, as they would without this project."""
    from dreamactor.benchmark import gpu_ways

    return gpu_ways.plain()


def compile_for(engines: Engines) -> float:
    """Runs each network once at each size of a clip of one segment, so that nothing compiles while timed; returns the
    seconds it took."""
    start = time.perf_counter()
    for name, wanted in pipeline_sizes(engines.preset, engines.preset.segment_frames).items():
        for size in wanted:
            engines.session(name).run(random_inputs(engines.preset, name, size, seed=0))
    return time.perf_counter() - start


def pipeline_sizes(preset: Preset, frames: int) -> dict[str, tuple[Size, ...]]:
    """The sizes at which a clip of one segment of `frames` frames with one reference calls each network."""
    photo = replace(Size.of(preset), latents=1)
    clip = replace(photo, latents=latent_frames(frames))
    return {
        "vae_encoder": (photo,), "pose_encoder": (photo, clip), "face_motion_encoder": (clip,),
        "denoiser": (clip,), "vae_decoder": (clip,),
    }  # fmt: skip


def agreement(engines: Engines, peer: Engines, size: Size) -> list[Agreement]:
    """Every network of `peer` against the engine of the same name, on fresh random inputs."""
    rows = []
    for name in NETWORKS:
        inputs = random_inputs(engines.preset, name, size, seed=1)
        ours, theirs = engines.session(name).run(inputs), peer.session(name).run(inputs)
        rows.append(compare_outputs(name, ours, theirs))
    return rows


def compare_outputs(name: str, ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> Agreement:
    """Relative L2 of float outputs, mean difference in levels of byte outputs; NaN never passes."""
    worst, passed = 0.0, set(ours) == set(theirs)
    for key, value in ours.items():
        if key not in theirs or theirs[key].shape != value.shape:
            return Agreement(name, float("inf"), False)
        if value.dtype == np.uint8:
            difference, bound = float(np.abs(theirs[key] - value.astype(np.float64)).mean()), PIXEL_BOUND
        else:
            difference, bound = relative_error(value, theirs[key]), RELATIVE_BOUND
        worst, passed = max(worst, difference), passed and difference <= bound
    return Agreement(name, worst, passed)


def _array(value: Any) -> Array:
    """A tensor's values, floating ones as float32; waits for its device."""
    found: Array = (value.float() if value.is_floating_point() else value).cpu().numpy()
    return found
