"""The quality gate on what the person sees: the video in this precision against the FP32 one with the same seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


def repaired(lowered: Entry) -> tuple[str, ...]:
    """The modules of a network that are back in high precision, for its own output's sake or the video's."""
    return tuple(lowered.facts["put_back"])


def lower_all(stages: Stages, log: Log) -> tuple[dict[str, Entry], Verdict | None]:
    """Every network in the recipe's precision; those that spoil the video are repaired until it passes the gate."""
    networks = stages.request.networks
    for name in networks:
        stages.onnx(name)
    stages.release()
    if stages.keys.records:
        stages.samples()
    lowered = {name: stages.precision(name) for name in networks}
    if stages.keys.recipe.name == "fp32":
        return lowered, None
    first = verdict = judge(stages, lowered)
    steps = dict.fromkeys(networks, 1)
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
        lowered[network] = stages.precision(network, (*repaired(lowered[network]), *chosen))
        steps[network] *= 2
        verdict = judge(stages, lowered)
    return lowered, verdict if verdict is first else replace(verdict, before=first.video.whole_psnr)


def _costliest(stages: Stages, lowered: Mapping[str, Entry], verdict: Verdict) -> tuple[str, list[str]] | None:
    """The network that costs the video most of those with modules left to put back, and these, most harmful first."""
    for network in sorted(verdict.alone, key=lambda name: verdict.alone[name]):
        there = repaired(lowered[network])
        waiting = [module for module in stages.sensitivity(network) if module not in there]
        if waiting:
            return network, waiting
    return None


def judge(stages: Stages, lowered: Mapping[str, Entry]) -> Verdict:
    """Videos with all networks lowered and with each alone, against FP32."""
    from dreamactor.production.video_quality import compare

    plain, precision = {name: stages.onnx(name) for name in lowered}, stages.keys.recipe.name
    reference = stages.video(plain, "every network in FP32")
    whole = compare(reference, stages.video(lowered, f"every network in {precision}"))
    alone = {
        name: compare(reference, stages.video({**plain, name: entry}, f"{name} in {precision}")).whole_psnr
        for name, entry in lowered.items()
    }
    gate = stages.keys.recipe.psnr_gate if stages.request.checkpoint is not None else None
    return Verdict(whole, alone, gate)
