"""The quality gate on what the person sees: the video in this precision against the FP32 one with the same seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dreamactor.production.keys import Key

if TYPE_CHECKING:
    import numpy as np

    from dreamactor.engines.store import Entry
    from dreamactor.production.stages import Stages

Log = Callable[[str], None]


@dataclass(frozen=True)
class Verdict:
    """`psnr` is over all pixels and `ssim` the frames' mean with every network lowered, `alone` the PSNR with one
    network lowered at a time; `gate` is None where the weights are random and there is nothing to promise."""

    psnr: float
    ssim: float
    frames: tuple[float, ...]
    alone: Mapping[str, float]
    gate: float | None

    @property
    def passed(self) -> bool:
        return self.gate is None or self.psnr >= self.gate


@dataclass
class Lowered:
    """Each network's entry and the modules that were put back for the video's sake."""

    entries: dict[str, Entry]
    put_back: dict[str, tuple[str, ...]]

    def keys(self, stages: Stages) -> dict[str, Key]:
        return {name: stages.keys.precision(name, self.put_back[name]) for name in self.entries}


def lower_all(stages: Stages, log: Log) -> tuple[Lowered, Verdict | None]:
    """Every network in the recipe's precision; those that spoil the video are repaired until it passes the gate."""
    networks = stages.request.networks
    try:
        for name in networks:
            stages.onnx(name)
    finally:
        stages.exporter.close()
    if stages.keys.records:
        stages.samples()
    lowered = Lowered({name: stages.precision(name) for name in networks}, dict.fromkeys(networks, ()))
    if stages.keys.recipe.name == "fp32":
        return lowered, None
    verdict = judge(stages, lowered)
    step = 1
    while not verdict.passed:
        network = min(verdict.alone, key=lambda name: verdict.alone[name])
        before = set(lowered.entries[network].facts["put_back"]) | set(lowered.put_back[network])
        waiting = [item["module"] for item in stages.sensitivity(network) if item["module"] not in before]
        if not waiting:
            log(f"{network} is all in high precision and the video still misses its gate.")
            break
        log(
            f"The video has {verdict.psnr:.1f} dB of {verdict.gate:.0f}: {network} costs most, "
            f"putting back {', '.join(waiting[:step])}."
        )
        lowered.put_back[network] = (*sorted(before), *waiting[:step])
        lowered.entries[network] = stages.precision(network, lowered.put_back[network])
        step *= 2
        verdict = judge(stages, lowered)
    return lowered, verdict


def judge(stages: Stages, lowered: Lowered) -> Verdict:
    """Videos with all networks lowered and with each alone, against FP32."""
    from dreamactor.production.video_quality import compare

    plain = {name: stages.onnx(name) for name in lowered.entries}
    plain_keys: dict[str, Key] = {name: stages.keys.onnx(name) for name in plain}
    keys = lowered.keys(stages)
    reference = stages.video(plain, plain_keys, "every network in FP32")

    def seen(names: tuple[str, ...], label: str) -> np.ndarray:
        entries = {name: lowered.entries[name] if name in names else plain[name] for name in plain}
        chosen = {name: keys[name] if name in names else plain_keys[name] for name in plain}
        return stages.video(entries, chosen, label)

    precision = stages.keys.recipe.name
    whole = compare(reference, seen(tuple(plain), f"every network in {precision}"))
    alone = {name: compare(reference, seen((name,), f"{name} in {precision}")).whole_psnr for name in plain}
    gate = stages.keys.recipe.psnr_gate if stages.request.checkpoint is not None else None
    return Verdict(whole.whole_psnr, whole.mean_ssim, whole.psnr, alone, gate)
