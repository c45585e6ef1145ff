"""How time and memory grow with frames, resolution, references and steps; with the fitted exponents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from dreamactor.benchmark import memory
from dreamactor.benchmark.statistics import Growth, Interval, exponent, exponent_of_rounds, growth
from dreamactor.benchmark.timing import Case, interleave
from dreamactor.engines import Engines
from dreamactor.errors import DreamActorError, EngineError, InputError
from dreamactor.interfaces import Size, random_inputs
from dreamactor.motion.limits import Limits
from dreamactor.presets import Preset, latent_frames
from dreamactor.production.plan import available_memory


@dataclass(frozen=True)
class Curve:
    """Seconds over sizes, `samples` round by round for each size; `axis` says what the sizes are."""

    name: str
    axis: str
    sizes: tuple[float, ...]
    samples: tuple[tuple[float, ...], ...]

    @property
    def title(self) -> str:
        return f"{self.name} / {self.axis}"

    @property
    def values(self) -> tuple[float, ...]:
        """The median at each size."""
        return tuple(median(rounds) for rounds in self.samples)

    @property
    def exponent(self) -> Interval:
        """Its interval is that of the rounds' noise where there are rounds, else of the residuals."""
        if len(self.samples[0]) > 1:
            return exponent_of_rounds(self.sizes, self.samples)
        return exponent(self.sizes, self.values)

    def to_dict(self) -> dict[str, Any]:
        values = {"axis": self.axis, "sizes": list(self.sizes), "values": list(self.values)}
        return {**values, "samples": list(map(list, self.samples)), "exponent": self.exponent.to_dict()}


def engine_curves(engines: Engines, rounds: int, quick: bool) -> tuple[list[Curve], dict[str, str]]:
    """The denoiser's step against frames, resolution and references, and the decoder's against frames; and why a size
    is missing: TensorRT's engines take only sizes they were built for, and a GPU's memory is limited."""
    base = Size.of(engines.preset)
    frames = [5, 13, 25] if quick else [5, 13, 25, 49]
    percents = [50, 100] if quick else [50, 100, 150]
    pictures = [[memory.resized(side, percent) for side in (base.height, base.width)] for percent in percents]
    counts = [1, 2] if quick else [1, 2, 4]
    lengths = {float(n): replace(base, latents=latent_frames(n)) for n in frames}
    plan: list[tuple[str, str, dict[float, Size]]] = [
        ("denoiser", "frames", lengths),
        ("denoiser", "pixels", {float(h * w): replace(base, height=h, width=w) for h, w in pictures}),
        ("denoiser", "references", {float(n): replace(base, references=n) for n in counts}),
        ("vae_decoder", "frames", lengths),
    ]
    curves: list[Curve] = []
    refused: dict[str, str] = {}
    for network, axis, sizes in plan:
        taken = {}
        for number, size in sizes.items():
            given = random_inputs(engines.preset, network, size, seed=2)
            try:
                engines.session(network).run(given)
                taken[number] = given
            except (InputError, EngineError) as error:
                refused[f"time of {network} at {number:g} {axis}"] = str(error)
        if len(taken) > 1:
            run = engines.session(network).run
            curves.append(_curve(network, axis, {size: partial(run, given) for size, given in taken.items()}, rounds))
    return curves, refused


def steps_curve(run: Callable[[int], object], steps: Sequence[int], rounds: int) -> Curve:
    """Seconds of a whole clip against denoising steps."""
    return _curve("pipeline", "steps", {float(count): partial(run, count) for count in steps}, rounds)


@dataclass(frozen=True)
class ClipScaling:
    """Peak memory and time of whole clips against their length, in fresh processes.

    A short clip's peak is the engines' working memory, the same for every segment. Only from `fitted_from` frames on is
    it what grows with the clip (its decoded frames, above all), so only these lengths tell how it grows.
    """

    peaks: tuple[memory.Peak, ...]
    fitted_from: int

    def time(self) -> Curve:
        frames, seconds = zip(*((float(peak.frames), (peak.seconds,)) for peak in self.peaks), strict=True)
        return Curve("pipeline", "frames", frames, seconds)

    def memory(self) -> Growth:
        """Bytes on top of the idle process with engines and models open ~ constant + factor * frames**exponent."""
        long = [peak for peak in self.peaks if peak.frames >= self.fitted_from]
        return growth([peak.frames for peak in long], [peak.grown for peak in long])

    def longest(self, fps: float) -> dict[str, Any]:
        """Frames of the longest clip that fits: by memory, on a line through the longest two, and by the caps on input
        at `fps` frames a second."""
        last, before = self.peaks[-1], self.peaks[-2]
        each = max((last.peak - before.peak) / max(last.frames - before.frames, 1), 1.0)
        free, limits = available_memory(), Limits()
        fits = None if free is None else int(last.frames + max(free - last.peak, 0) / each)
        cap = min(limits.clip_frames, round(limits.clip_seconds * fps))
        return {"bytes_per_frame": each, "frames_by_memory": fits, "frames_by_cap": cap}

    def to_dict(self, fps: float) -> dict[str, Any]:
        peaks = [peak.to_dict() for peak in self.peaks]
        idle = median(peak.idle for peak in self.peaks)
        fit = {**self.memory().to_dict(), "idle": idle, "from": self.fitted_from}
        return {"peaks": peaks, "memory": fit, "longest_clip": self.longest(fps)}


def clip_scaling(engines: Path, preset: Preset, quick: bool) -> tuple[ClipScaling, dict[str, str]]:
    """Probes clips of growing length, each once in a process of its own, with one denoising step; and why some failed.

    Raises DreamActorError where fewer than three long ones are left: too few to fit.
    """
    short, long = ((1, 4), (12, 18, 24)) if quick else ((1, 2, 4), (12, 15, 18, 22, 28))

    def frames(segments: int) -> int:
        return min(segments * (preset.segment_frames - 1) + 1, Limits().clip_frames)

    lengths = sorted({frames(segments) for segments in (*short, *long)})
    peaks, failed, fitted_from = [], dict[str, str](), frames(long[0])
    for count in lengths:
        try:
            peaks.append(memory.probe(engines, count, steps=1))
        except DreamActorError as error:
            failed[f"memory of a clip of {count} frames"] = str(error)
    if sum(peak.frames >= fitted_from for peak in peaks) < 3:
        raise DreamActorError("; ".join(failed.values()))
    return ClipScaling(tuple(peaks), fitted_from), failed


def memory_curves(engines: Path, preset: Preset, references: int, quick: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Peak memory of a clip of one segment, on top of the open engines, against references, up to as many as the set
    takes, steps, and pixels: bytes and the exponent, which is small where most of the memory does not grow; and why a
    size is missing: TensorRT's engines take only sizes they were built for, and memory is limited."""
    counts, percents = ((1, 4), (50, 100)) if quick else ((1, 2, 4), (50, 100, 150))
    frames, found, refused = preset.segment_frames, dict[str, Any](), dict[str, str]()
    clip = {"steps": 1, "references": 1, "percent": 100}
    usual = memory.probe(engines, frames, **clip)

    def pixels(percent: int) -> int:
        return memory.resized(preset.height, percent) * memory.resized(preset.width, percent)

    plan: list[tuple[str, dict[int, dict[str, int]]]] = [
        ("references", {count: {"references": count} for count in counts if count <= references}),
        ("steps", {count: {"steps": count} for count in counts}),
        ("pixels", {pixels(percent): {"percent": percent} for percent in percents}),
    ]
    for axis, sizes in plan:
        peaks = {}
        for size, change in sizes.items():
            given = {**clip, **change}
            try:
                peaks[size] = usual if given == clip else memory.probe(engines, frames, **given)
            except DreamActorError as error:
                refused[f"memory at {size} {axis}"] = str(error)
        if len(peaks) > 1:
            grown = [peak.grown for peak in peaks.values()]
            found[axis] = {
                "sizes": list(peaks), "bytes": grown, "device_grown": [peak.device_grown for peak in peaks.values()],
                "exponent": exponent(list(peaks), grown).to_dict(),
            }  # fmt: skip
    return found, refused


def _curve(name: str, axis: str, cases: Mapping[float, Case], rounds: int) -> Curve:
    timings = interleave({str(size): case for size, case in cases.items()}, rounds)
    return Curve(name, axis, tuple(cases), tuple(tuple(timings[str(size)].seconds) for size in cases))
