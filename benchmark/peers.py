"""What one would use instead: the same networks in PyTorch, eager and compiled, behind the same pipeline.

A peer is compared only after its outputs were found equal on fresh inputs; one that differs is reported as such and
gets no figure. torch is imported here and nowhere else in the harness's measured path.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamactor.benchmark.environment import cores
from dreamactor.benchmark.inputs import Size, network_inputs
from dreamactor.engines import NETWORKS, Engines, Session
from dreamactor.engines.session import Array
from dreamactor.errors import MissingDependency
from dreamactor.presets import Preset

RELATIVE_BOUND = 2e-2  # of float outputs; single-precision networks lie near 1e-5, half-precision ones near 1e-3
PIXEL_BOUND = 1.0  # mean difference of byte outputs, in levels of 255


class TorchSession:
    """A network's PyTorch module as the pipeline's Session."""

    def __init__(self, name: str, module: Any, like: Session, output_names: tuple[str, ...]) -> None:
        self.name, self.inputs, self.outputs = name, like.inputs, like.outputs
        self._module, self._output_names = module, output_names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        import torch

        with torch.inference_mode():
            out = self._module(**{key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in inputs.items()})
        values = out if isinstance(out, tuple) else (out,)
        return {key: value.numpy() for key, value in zip(self._output_names, values, strict=True)}

    def close(self) -> None:
        self._module = None


@dataclass(frozen=True)
class Agreement:
    """Largest difference of a peer from the engine over all outputs of a network; `passed` is the bound kept."""

    network: str
    difference: float
    passed: bool


def torch_engines(engines: Engines, compiled: bool, threads: int | None = None) -> Engines:
    """The set's networks in PyTorch: its checkpoint, or the random weights that `dreamactor build` gives.

    Compiled ones specialise on each shape and are compiled at their first run. Raises MissingDependency without torch.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingDependency("The PyTorch peers need torch: pip install 'dreamactor[export]'.") from error
    from dreamactor import networks, paths
    from dreamactor.export.graphs import graph

    torch.set_num_threads(threads or cores())
    preset = engines.preset
    source = paths.checkpoint(preset.name)
    model = networks.load(source, preset) if source else networks.build(preset)
    sessions: dict[str, Session] = {}
    for name in NETWORKS:
        item = graph(model, name)
        module = torch.compile(item.module, dynamic=False) if compiled else item.module
        sessions[name] = TorchSession(name, module, engines.session(name), item.outputs)
    return Engines(preset, engines.manifest, sessions)


def compile_for(engines: Engines, sizes: Mapping[str, tuple[Size, ...]]) -> float:
    """Runs each network once at each size, so that nothing compiles under the clock; returns the seconds it took."""
    start = time.perf_counter()
    for name, wanted in sizes.items():
        for size in wanted:
            engines.session(name).run(network_inputs(engines.preset, name, size, seed=0))
    return time.perf_counter() - start


def pipeline_sizes(preset: Preset, frames: int) -> dict[str, tuple[Size, ...]]:
    """The sizes at which a clip of one segment of `frames` frames with one reference calls each network."""
    clip, photo = Size(frames, preset.height, preset.width), Size(1, preset.height, preset.width)
    return {
        "vae_encoder": (photo,), "pose_encoder": (photo, clip), "face_motion_encoder": (clip,),
        "denoiser": (clip,), "vae_decoder": (clip,),
    }  # fmt: skip


def agreement(engines: Engines, peer: Engines, size: Size, seed: int = 1) -> list[Agreement]:
    """Every network of `peer` against the engine of the same name, on fresh random inputs."""
    rows = []
    for name in NETWORKS:
        inputs = network_inputs(engines.preset, name, size, seed)
        ours, theirs = engines.session(name).run(inputs), peer.session(name).run(inputs)
        rows.append(compare_outputs(name, ours, theirs))
    return rows


def compare_outputs(name: str, ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> Agreement:
    """Relative L2 of float outputs, mean difference in levels of byte outputs; NaN never passes."""
    worst, passed = 0.0, set(ours) == set(theirs)
    for key, value in ours.items():
        if key not in theirs or theirs[key].shape != value.shape:
            return Agreement(name, float("inf"), False)
        expected, found = value.astype(np.float64), theirs[key].astype(np.float64)
        if value.dtype == np.uint8:
            difference, bound = float(np.abs(found - expected).mean()), PIXEL_BOUND
        else:
            scale = max(float(np.linalg.norm(expected)), 1e-12)
            difference, bound = float(np.linalg.norm(found - expected)) / scale, RELATIVE_BOUND
        worst, passed = max(worst, difference), passed and difference <= bound
    return Agreement(name, worst, passed)
