"""The repair of a video that misses its gate: which network, which modules, how many, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto

from dreamactor.engines.store import Entry
from dreamactor.export import recipes
from dreamactor.export.quantize import FORMATS, Format
from dreamactor.export.recipe import Recipe
from dreamactor.production import gate
from dreamactor.production.gate import Verdict, lower_all, repaired
from dreamactor.production.request import Request, make_request
from dreamactor.production.stages import Stages

MODULES = {"denoiser": ("a",), "vae_decoder": ("b", "c", "d", "e")}
COST = {"denoiser": 12, "vae_decoder": 4}  # levels of grey that a network adds when it is lowered
GAIN = {"a": 4, "b": 1, "c": 1, "d": 1, "e": 1}  # that a module takes away when it is put back


@dataclass
class Drawn:
    """Stages whose video is grey, and further from the true grey by what each lowered network costs."""

    psnr_gate: float
    checkpoint: Path | None = Path()
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    @property
    def request(self) -> SimpleNamespace:
        return SimpleNamespace(networks=tuple(MODULES), checkpoint=self.checkpoint)

    @property
    def keys(self) -> SimpleNamespace:
        return SimpleNamespace(records=False, recipe=Recipe("int8", psnr_gate=self.psnr_gate))

    def release(self) -> None:
        pass

    def onnx(self, network: str) -> SimpleNamespace:
        return SimpleNamespace(levels=0)

    def precision(self, network: str, put_back: tuple[str, ...] = ()) -> SimpleNamespace:
        self.asked.append((network, put_back))
        levels = COST[network] - sum(GAIN[module] for module in put_back)
        return SimpleNamespace(levels=levels, facts={"put_back": list(put_back)})

    def sensitivity(self, network: str) -> list[str]:
        return list(MODULES[network])

    def video(self, entries: Mapping[str, SimpleNamespace], label: str) -> np.ndarray:
        return np.full((2, 16, 16, 3), 100 + sum(entry.levels for entry in entries.values()), np.uint8)


def put_back(lowered: Mapping[str, Entry]) -> dict[str, tuple[str, ...]]:
    return {name: repaired(entry) for name, entry in lowered.items()}


def test_when_the_worst_network_has_nothing_left_the_others_are_repaired() -> None:
    stages, lines = Drawn(psnr_gate=28.0), list[str]()
    lowered, verdict = lower_all(stages, lines.append)  # type: ignore[arg-type]
    assert verdict is not None
    assert verdict.passed
    assert put_back(lowered) == {"denoiser": ("a",), "vae_decoder": ("b", "c", "d")}
    assert stages.asked[2:] == [
        ("denoiser", ("a",)), ("vae_decoder", ("b",)), ("vae_decoder", ("b", "c", "d")),
    ]  # fmt: skip
    assert verdict.before == pytest.approx(20 * np.log10(255 / 16))
    assert verdict.video.whole_psnr == pytest.approx(20 * np.log10(255 / 9))
    assert "vae_decoder costs most, putting back c, d." in lines[-1]


def test_a_video_that_cannot_pass_has_everything_put_back_and_that_is_said() -> None:
    lines: list[str] = []
    lowered, verdict = lower_all(Drawn(psnr_gate=60.0), lines.append)  # type: ignore[arg-type]
    assert verdict is not None
    assert not verdict.passed
    assert put_back(lowered) == MODULES
    assert lines[-1] == "No network has a module left to put back, and the video still misses its gate."


def test_a_video_that_passes_is_left_as_it_is_and_each_network_judged_with_the_others_in_fp32() -> None:
    lowered, verdict = lower_all(Drawn(psnr_gate=20.0), lambda line: None)  # type: ignore[arg-type]
    assert verdict is not None
    assert verdict.before is None
    assert not any(put_back(lowered).values())
    assert verdict.alone == pytest.approx({name: 20 * np.log10(255 / cost) for name, cost in COST.items()})


def test_random_weights_promise_nothing() -> None:
    lowered, verdict = lower_all(Drawn(psnr_gate=60.0, checkpoint=None), lambda line: None)  # type: ignore[arg-type]
    assert verdict is not None
    assert (verdict.gate, verdict.passed) == (None, True)
    assert not any(put_back(lowered).values())


@pytest.fixture
def four_levels(tmp_path: Path, tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """INT8 for the CPU, spoiled on purpose: the weights of every matrix product in steps of half their range."""
    monkeypatch.setitem(FORMATS, "int8", Format(1.5, int(TensorProto.INT8), np.dtype(np.int8)))
    spoiled = Recipe("int8", quantized="int8", dynamic=True, psnr_gate=1.0, snr_gate=-100.0)
    monkeypatch.setattr(recipes.int8, "CPU", spoiled)
    return make_request("tiny", "int8", "cpu", output=tmp_path / "set", store=tiny_store)


def test_four_levels_spoil_the_video_and_it_is_repaired(four_levels: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights promise nothing: a gate is set 6 dB above what they reach, and the rest is as for a checkpoint."""
    judge, seen = gate.judge, list[Verdict]()

    def strict(stages: Stages, lowered: Mapping[str, Entry]) -> Verdict:
        found = judge(stages, lowered)
        seen.append(replace(found, gate=(seen or [found])[0].video.whole_psnr + 6))
        return seen[-1]

    monkeypatch.setattr(gate, "judge", strict)
    stages = Stages(four_levels, lambda what, done, total: None)
    lowered, verdict = lower_all(stages, lambda line: None)
    assert verdict is not None
    assert [judged.passed for judged in seen] == [False] * (len(seen) - 1) + [True]
    assert len(seen) > 1
    assert verdict == replace(seen[-1], before=seen[0].video.whole_psnr)
    first, last = stages.precision("denoiser"), lowered["denoiser"]
    assert repaired(last)[0] == stages.sensitivity("denoiser")[0]
    assert last.facts["snr_before_repair_db"] == first.facts["snr_db"] < last.facts["snr_db"]
    assert last.facts["bytes_before_repair"] == first.bytes < last.bytes


def test_four_levels_spoil_a_network_and_it_is_repaired(four_levels: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled = Stages(four_levels, lambda what, done, total: None).precision("denoiser").facts
    assert spoiled["put_back"] == []
    least = spoiled["snr_db"] + 3
    monkeypatch.setattr(recipes.int8, "CPU", replace(recipes.int8.CPU, snr_gate=least))
    found = Stages(four_levels, lambda what, done, total: None).precision("denoiser").facts
    assert found["snr_before_repair_db"] == spoiled["snr_db"] < least <= found["snr_db"]
    assert found["put_back"]
    assert found["passed"]
