"""The quality gate on what the person sees: the video in this precision against the FP32 one with the same seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dreamactor.production.keys import Key

if TYPE_CHECKING:
    import numpy as np

    from dreamactor.engines.store import Entry
    from dreamactor.production.stages import Stages
    from dreamactor.production.video_quality import VideoQuality

Log = Callable[[str], None]


@dataclass(frozen=True)
class Verdict:
    """`video` with every network lowered, `alone` the PSNR with one network lowered at a time; `gate` is None where the
    weights are random and there is nothing to promise, `before` the PSNR before modules were put back for the video's
    sake (None where none were)."""

    video: VideoQuality
    alone: Mapping[str, float]
    gate: float | None
    before: float | None = None

    @property
    def passed(self) -> bool:
        return self.gate is None or self.video.whole_psnr >= self.gate


@dataclass
class Lowered:
    """Each network's entry and the modules that were put back for the video's sake."""

    entries: dict[str, Entry]
    put_back: dict[str, tuple[str, ...]]

    def keys(self, stages: Stages) -> dict[str, Key]:
        return {name: stages.keys.precision(name, self.put_back[name]) for name in self.entries}

    def repaired(self, network: str) -> tuple[str, ...]:
        """All that is back in high precision, for its own output's sake or the video's."""
        return tuple(self.entries[network].facts["put_back"])


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
    before, steps = verdict.video.whole_psnr, dict.fromkeys(networks, 1)
    while not verdict.passed:
        found = _costliest(stages, lowered, verdict)
        if found is None:
            log("No network has a module left to put back, and the video still misses its gate.")
            break
        network, waiting = found
        chosen = waiting[: steps[network]]
        log(
            f"The video has {verdict.video.whole_psnr:.1f} dB of {verdict.gate:.0f}: {network} costs most, "
            f"putting back {', '.join(chosen)}."
        )
        lowered.put_back[network] = (*lowered.repaired(network), *chosen)
        lowered.entries[network] = stages.precision(network, lowered.put_back[network])
        steps[network] *= 2
        verdict = judge(stages, lowered)
    return lowered, replace(verdict, before=before if any(lowered.put_back.values()) else None)


def _costliest(stages: Stages, lowered: Lowered, verdict: Verdict) -> tuple[str, list[str]] | None:
    """The network that costs the video most of those with modules left to put back, and these, most harmful first."""
    for network in sorted(verdict.alone, key=lambda name: verdict.alone[name]):
        there = lowered.repaired(network)
        waiting = [item["module"] for item in stages.sensitivity(network) if item["module"] not in there]
        if waiting:
            return network, waiting
    return None


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
    return Verdict(whole, alone, gate)
