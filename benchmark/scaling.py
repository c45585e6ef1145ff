"""How time and memory grow with frames, resolution, references and steps, with the fitted exponents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dreamactor.benchmark import memory
from dreamactor.benchmark.environment import available_memory
from dreamactor.benchmark.inputs import Size, network_inputs
from dreamactor.benchmark.statistics import Interval, exponent
from dreamactor.benchmark.timing import interleave
from dreamactor.engines import Engines
from dreamactor.motion.limits import Limits


@dataclass(frozen=True)
class Curve:
    """A quantity over sizes; `unit` of the values, `axis` says what the sizes are."""

    name: str
    axis: str
    unit: str
    sizes: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def exponent(self) -> Interval:
        return exponent(self.sizes, self.values)

    def to_dict(self) -> dict[str, Any]:
        values = {"axis": self.axis, "unit": self.unit, "sizes": list(self.sizes), "values": list(self.values)}
        return {**values, "exponent": self.exponent.to_dict() if len(self.sizes) > 1 else None}


def engine_curves(engines: Engines, rounds: int, quick: bool) -> list[Curve]:
    """The denoiser's step against frames, resolution and references, and the decoder's against frames."""
    base = Size.of(engines.preset)
    side = base.height
    frames = [5, 13, 25] if quick else [5, 13, 25, 49]
    sides = [side // 2, side] if quick else [side // 2, side, side * 3 // 2]
    counts = [1, 2] if quick else [1, 2, 4]
    return [
        _curve(engines, "denoiser", "frames", frames, [replace(base, frames=n) for n in frames], rounds),
        _curve(engines, "denoiser", "pixels", [s * s for s in sides], [_square(base, s) for s in sides], rounds),
        _curve(engines, "denoiser", "references", counts, [replace(base, references=n) for n in counts], rounds),
        _curve(engines, "vae_decoder", "frames", frames, [replace(base, frames=n) for n in frames], rounds),
    ]


def steps_curve(run: Callable[[int], object], steps: Sequence[int], rounds: int) -> Curve:
    """Seconds of a whole clip against denoising steps."""
    cases = {str(count): (lambda count=count: run(count)) for count in steps}
    timings = interleave(cases, rounds, warmup=0)
    values = tuple(timings[str(count)].median().value for count in steps)
    return Curve("pipeline time", "steps", "s", tuple(map(float, steps)), values)


@dataclass(frozen=True)
class ClipScaling:
    """Peak memory and time of whole clips against their length, in fresh processes."""

    peaks: tuple[memory.Peak, ...]

    def curves(self) -> list[Curve]:
        frames = tuple(float(peak.frames) for peak in self.peaks)
        return [
            Curve("pipeline memory", "frames", "bytes", frames, tuple(float(peak.grown) for peak in self.peaks)),
            Curve("pipeline time", "frames", "s", frames, tuple(peak.seconds for peak in self.peaks)),
        ]

    def longest(self) -> dict[str, Any]:
        """Frames of the longest clip that fits: by memory, on a line through the first and last point, and by the caps
        on input."""
        first, last = self.peaks[0], self.peaks[-1]
        each = max((last.grown - first.grown) / max(last.frames - first.frames, 1), 1.0)
        free = available_memory()
        fits = None if free is None else int(last.frames + max(free - last.peak, 0) / each)
        return {"bytes_per_frame": each, "frames_by_memory": fits, "frames_by_cap": Limits().clip_frames}

    def to_dict(self) -> dict[str, Any]:
        return {"peaks": [vars(peak) for peak in self.peaks], "longest_clip": self.longest()}


def clip_scaling(engines: Path, frames: Sequence[int], steps: int = 1) -> ClipScaling:
    """Probes each length once in a process of its own."""
    return ClipScaling(tuple(memory.probe(engines, count, steps) for count in frames))


def _square(size: Size, side: int) -> Size:
    aligned = max(32, side // 32 * 32)
    return replace(size, height=aligned, width=aligned)


def _curve(
    engines: Engines, network: str, axis: str, labels: Sequence[float], sizes: Sequence[Size], rounds: int
) -> Curve:
    session, preset = engines.session(network), engines.preset
    inputs = [network_inputs(preset, network, size, seed=2) for size in sizes]
    cases = {str(label): (lambda given=given: session.run(given)) for label, given in zip(labels, inputs, strict=True)}
    timings = interleave(cases, rounds)
    values = tuple(timings[str(label)].median().value for label in labels)
    return Curve(f"{network} time", axis, "s", tuple(map(float, labels)), values)
