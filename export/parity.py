"""ONNX Runtime beside PyTorch, at sizes other than the exported ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dreamactor.export.graphs import example_inputs, example_size, graph
from dreamactor.export.quality import run_model
from dreamactor.fidelity import relative_error
from dreamactor.networks import Networks

RELATIVE_BOUND = 1e-3


@dataclass(frozen=True)
class Parity:
    """Difference of one output: relative L2 over the whole and the largest single difference, in the output's unit."""

    network: str
    output: str
    shape: tuple[int, ...]
    relative: float
    maximum: float

    @property
    def passed(self) -> bool:
        return self.relative <= RELATIVE_BOUND


def check_parity(networks: Networks, name: str, path: Path, **changes: int) -> list[Parity]:
    """Runs `path` and the PyTorch module on the same random inputs, with these changes to their `Size`."""
    inputs = example_inputs(networks.preset, name, replace(example_size(networks.preset), **changes), seed=1)
    item = graph(networks, name)
    with torch.no_grad():
        expected = item.module(**inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = run_model(path, {key: value.numpy() for key, value in inputs.items()})
    return [
        _compare(name, output, value.numpy(), found[output])
        for output, value in zip(item.outputs, expected, strict=True)
    ]


def _compare(network: str, output: str, expected: np.ndarray, found: np.ndarray) -> Parity:
    if expected.shape != found.shape:
        return Parity(network, output, found.shape, float("inf"), float("inf"))
    maximum = float(np.abs(found.astype(np.float64) - expected).max())
    return Parity(network, output, found.shape, relative_error(expected, found), maximum)


def format_parity(rows: list[Parity]) -> str:
    """A line per output, for a person."""
    return "\n".join(
        f"{row.network:20s} {row.output:12s} {'x'.join(map(str, row.shape)):22s} "
        f"relative {row.relative:.1e}  max {row.maximum:.1e}  {'pass' if row.passed else 'FAIL'}"
        for row in rows
    )


OTHER_SIZES: dict[str, list[dict[str, int]]] = {
    "vae_encoder": [{"latents": 1}, {"latents": 5, "height": 96, "width": 64}],
    "vae_decoder": [{"latents": 1}, {"latents": 5, "height": 96, "width": 64}],
    "pose_encoder": [{"latents": 1}, {"latents": 5, "height": 96, "width": 64}],
    "face_motion_encoder": [{"latents": 2}, {"latents": 5}],
    "denoiser": [
        {"latents": 2, "height": 32, "width": 64, "references": 3},
        {"latents": 5, "height": 96, "width": 64, "references": 1, "batch": 1},
    ],
}
"""Sizes that no preset exports at, for `check_export`."""


def check_export(networks: Networks, files: Mapping[str, Path]) -> list[Parity]:
    """Parity of every exported file at its preset's size and at OTHER_SIZES."""
    rows = []
    for name, path in files.items():
        for changes in [{}, *OTHER_SIZES[name]]:
            rows += check_parity(networks, name, path, **changes)
    return rows
