"""The checkpoint that ships: small, in 16 bits, and it animates."""

from __future__ import annotations

import pytest
from safetensors import safe_open

from dreamactor.networks import load
from dreamactor.paths import checkpoint
from dreamactor.presets import preset
from dreamactor.training.assets import mocap_folder
from dreamactor.training.evaluate import Evaluation, Settings

FOLDER = checkpoint("puppet")
assert FOLDER is not None
WEIGHTS = FOLDER / "model.safetensors"


def test_it_is_small_and_in_16_bits() -> None:
    assert WEIGHTS.stat().st_size <= 40e6
    with safe_open(WEIGHTS, "pt") as file:
        assert {str(file.get_slice(name).get_dtype()) for name in file.keys()} == {"F16"}  # noqa: SIM118
    assert load(FOLDER).preset == preset("puppet")


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    """Of one held-out clip."""
    evaluation = Evaluation(load(FOLDER), mocap_folder(), Settings())
    return evaluation.figures(evaluation.case(2000, "half", 33), latents=3)[0]


def test_it_follows_the_motion_and_keeps_the_looks(figures: dict[str, float]) -> None:
    assert figures["psnr"] > figures["psnr_copy_reference"] + 2
    assert figures["joint_error"] < 0.6 * figures["joint_error_no_pose"]
    assert figures["identity_error"] < 0.7 * figures["identity_error_no_reference"]
