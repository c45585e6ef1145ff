"""The shipped weights make what they made when they were trained; what reads them otherwise is another network."""

from __future__ import annotations

import pytest
import torch

from dreamactor.export.graphs import graph
from dreamactor.interfaces import NETWORKS, Size, random_inputs
from dreamactor.networks import load
from dreamactor.paths import checkpoint

SIZE = Size(latents=3, height=64, width=96, references=2)
MADE = {
    "vae_encoder": [(0.0091, 0.8102, 0.963)],
    "vae_decoder": [(130.889, 23.5386, 75.447)],
    "pose_encoder": [(-0.1019, 2.3193, 45.94)],
    "face_motion_encoder": [(0.0547, 0.3041, -0.528)],
    "denoiser": [(-0.0013, 0.936, 2.101), (0.0511, 0.8947, -9.911)],
}
"""Of each output: mean, deviation, what tells its places apart. New weights have new ones: the failure shows them."""


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shipped_weights_make_what_they_made(name: str) -> None:
    folder = checkpoint("puppet")
    assert folder is not None
    networks = load(folder)
    given = {key: torch.from_numpy(value) for key, value in random_inputs(networks.preset, name, SIZE).items()}
    with torch.no_grad():
        outputs = graph(networks, name).module(**given)
    found = []
    for output in outputs if isinstance(outputs, tuple) else (outputs,):
        values = output.double().flatten()
        places = torch.linspace(-1, 1, len(values), dtype=torch.float64)
        found.append((float(values.mean()), float(values.std()), float((values * places).mean() * 100)))
    assert found == [pytest.approx(each, rel=1e-3, abs=1e-3) for each in MADE[name]], found
