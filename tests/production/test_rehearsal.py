"""A preset too large for a CPU is recorded and judged on a smaller picture; the others as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dreamactor.presets import PRESETS, preset
from dreamactor.production.rehearsal import STEP, describe, operations, rehearsal

M1 = PRESETS["m1"]


@pytest.mark.parametrize("name", ["tiny", "puppet"])
def test_a_small_preset_is_its_own_rehearsal(name: str) -> None:
    assert rehearsal(preset(name)) == preset(name)
    assert describe(preset(name)) == ""


def test_m1_is_rehearsed_at_a_size_that_a_cpu_can_wait_for() -> None:
    small = rehearsal(M1)
    assert operations(M1) > 100 * STEP >= 100 * operations(small)
    assert small.height % 16 == small.width % 16 == 0
    assert small.width / small.height == pytest.approx(M1.width / M1.height, rel=0.15)
    assert replace(small, height=M1.height, width=M1.width, segment_frames=M1.segment_frames, steps=M1.steps) == M1
    assert f"{small.width}x{small.height}" in describe(M1)


def test_operations_are_those_of_the_transformer() -> None:
    from dreamactor.networks import build_meta

    for sizes in (preset("puppet"), M1):
        weights = build_meta(sizes).parameter_counts()["transformer"]
        network = sizes.transformer
        assert network.depth * network.dim**2 * (8 + 2 * network.ffn_ratio) == pytest.approx(weights, rel=0.2)
