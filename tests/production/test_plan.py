"""What a build says it will do: what it finds, and how long the same stage of the same network last took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dreamactor.engines.store import Store
from dreamactor.production.plan import Step, describe, lowered_bytes, memory_needed, plan
from dreamactor.production.request import make_request
from dreamactor.production.stages import Stages


def stages_of(tmp_path: Path, precision: str, target: str) -> Stages:
    request = make_request("tiny", precision, target, output=tmp_path / "set", store=tmp_path / "store")
    return Stages(request, lambda what, done, total: None)


def keys_of(stages: Stages, network: str) -> dict[str, Mapping[str, Any]]:
    """The key of every stage that a plan may have for one network."""
    keys = stages.keys
    precision = keys.precision(network)
    made = {"onnx": keys.onnx(network), "ranges": keys.ranges(network), "precision": precision}
    if stages.request.target.is_onnx:
        return {**made, "source": keys.source(network)}
    return {**made, "engine": stages.engine_key(network, precision)}


def keep(stages: Stages, stage: str, key: Mapping[str, Any]) -> None:
    Store(stages.request.store).get(stage, key, lambda folder: {})


def by_stage(steps: list[Step], network: str) -> dict[str, Step]:
    return {step.stage: step for step in steps if step.network == network}


PLANS = [
    ("fp8", "sm89", {"onnx", "samples", "ranges", "precision", "engine"}),
    ("int8", "cpu", {"onnx", "samples", "source", "precision"}),
    ("fp32", "cpu", {"onnx", "source", "precision"}),
]


@pytest.mark.parametrize(("precision", "target", "expected"), PLANS)
def test_a_plan_has_every_stage_and_an_empty_store_has_no_times(
    tmp_path: Path, precision: str, target: str, expected: set[str]
) -> None:
    steps = plan(stages_of(tmp_path, precision, target))
    assert {step.stage for step in steps} == expected
    assert not any(step.cached or step.seconds is not None for step in steps)
    assert len(describe(steps)) == len(expected)


@pytest.mark.parametrize(("precision", "target", "expected"), PLANS)
def test_what_is_in_the_store_is_found(tmp_path: Path, precision: str, target: str, expected: set[str]) -> None:
    stages = stages_of(tmp_path, precision, target)
    for stage, key in keys_of(stages, "denoiser").items():
        keep(stages, stage, key)
    for step in plan(stages):
        assert step.cached is (step.network == "denoiser"), step
    assert all("denoiser (cached)" in line for line in describe(plan(stages)) if "all" not in line)


@pytest.mark.parametrize(("precision", "target", "expected"), PLANS)
def test_a_time_is_that_of_the_same_stage_of_the_same_network(
    tmp_path: Path, precision: str, target: str, expected: set[str]
) -> None:
    stages = stages_of(tmp_path, precision, target)
    for stage, key in keys_of(stages, "denoiser").items():
        keep(stages, stage, {**key, "code": "older"})
        keep(stages, stage, {name: value for name, value in key.items() if name != "network"})  # as they once were
    keep(stages, "samples", {**stages.keys.samples(), "code": "older"})
    for step in plan(stages):
        assert not step.cached
        assert (step.seconds is not None) is (step.network in ("denoiser", "all")), step
    for line in describe(plan(stages)):
        assert "denoiser (last 0 s)" in line or "all (last 0 s)" in line
        assert "vae_decoder (last" not in line


@pytest.mark.parametrize(
    ("precision", "target", "share", "memory"),
    [("fp32", "cpu", 1.0, 1.3), ("bf16", "sm89", 0.5, 1.2), ("fp8", "sm89", 0.256, 0.614), ("int8", "cpu", 0.274, 1.3)],
)
def test_m1_from_a_checkpoint_takes_the_memory_of_what_it_becomes(
    tmp_path: Path, precision: str, target: str, share: float, memory: float
) -> None:
    weights = 31.05e9
    random = make_request("m1", precision, target, output=tmp_path / "set", store=tmp_path / "store")
    stages = [Stages(replace(random, checkpoint=folder), lambda what, done, total: None) for folder in (tmp_path, None)]
    assert lowered_bytes(stages[0]) == pytest.approx(share * weights, rel=0.01)
    assert memory_needed(stages[0]) == pytest.approx(memory * weights + 2 * 2**30, rel=0.01)
    assert memory_needed(stages[1]) == pytest.approx(max(memory, 1.1) * weights + 2 * 2**30, rel=0.01)


def test_a_network_that_was_repaired_for_the_video_is_planned_as_it_then_was(tmp_path: Path) -> None:
    stages = stages_of(tmp_path, "fp8", "sm89")
    keys = stages.keys
    first, last = (keys.precision("denoiser", modules) for modules in (("a",), ("a", "b")))
    for key in (first, last, keys.precision("denoiser")):
        keep(stages, "precision", key)
    keep(stages, "engine", stages.engine_key("denoiser", last))
    keep(stages, "engine", stages.engine_key("vae_decoder", keys.precision("vae_decoder")))
    older = {**keys.precision("vae_decoder", ("a",)), "code": "older"}
    keep(stages, "precision", older)
    steps = plan(stages)
    assert by_stage(steps, "denoiser")["precision"].cached
    assert by_stage(steps, "denoiser")["engine"].cached
    assert not by_stage(steps, "vae_decoder")["precision"].cached  # repaired by other code: not what will be used
    assert by_stage(steps, "vae_decoder")["engine"].cached
