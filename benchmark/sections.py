"""The sections of a run, in the order they run. Each takes the shared `Bench` and adds to its report and timings.

Engines are measured in three blocks spread over the whole run, so that a busy minute of the machine is seen as such.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dreamactor.benchmark import inputs, scaling
from dreamactor.benchmark.count import count
from dreamactor.benchmark.limits import measure_peaks, placed
from dreamactor.benchmark.profiles import profile
from dreamactor.benchmark.rivals import compare_peers
from dreamactor.benchmark.run import Bench
from dreamactor.benchmark.service import load_service
from dreamactor.benchmark.tensorrt_profiles import profile_engine, source_model
from dreamactor.benchmark.timing import Case, Sample, Timing, interleave
from dreamactor.benchmark.trace import Trace, traced
from dreamactor.engines.onnxruntime import session_options
from dreamactor.engines.session import Array
from dreamactor.errors import DreamActorError
from dreamactor.motion.landmarks import Landmarker
from dreamactor.pipeline import Animator, Options


def engines(bench: Bench, block: int) -> None:
    """Every network of every set at the size of one segment, in turn, on inputs drawn fresh each round."""
    given: dict[str, Mapping[str, Array]] = {}
    size = inputs.Size.of(bench.main.preset)

    def fresh(round_: int) -> None:
        for network in bench.main.sessions:
            given[network] = inputs.network_inputs(bench.main.preset, network, size, 1000 * block + round_)

    fresh(-1 % 997)
    cases: dict[str, Case] = {}
    for precision, opened in bench.sets.items():
        for network, session in opened.sessions.items():
            cases[f"engine/{network}/{precision}"] = partial(_run, session, given, network)
    for timing in interleave(cases, bench.settings.rounds, block=block, fresh=fresh).values():
        bench.add(timing)


def limits(bench: Bench) -> None:
    """Peaks of the machine, work of every network, and where its time goes."""
    preset, folder, opened = bench.main.preset, bench.main_folder, bench.main
    peaks = measure_peaks(bench.settings.threads)
    size, rows = inputs.Size.of(preset), {}
    for network in opened.sessions:
        record = opened.manifest.network(network)
        path, given = folder / record.files[0].path, inputs.network_inputs(preset, network, size, 3)
        if record.runtime != "onnxruntime":
            model = source_model(folder, record)
            bench.report["profiles"][network] = profile_engine(folder, record, given, model).to_dict()
            bench.report["not_run"][f"limit of {network}"] = "the peak measured here is the processor's: make gpu-check"
            continue
        seconds = bench.timings[f"engine/{network}/{opened.manifest.precision}"].median().value
        rows[network] = placed(count(path, given), seconds, peaks)
        options = partial(session_options, bench.settings.threads)
        bench.report["profiles"][network] = profile(path, network, options, given).to_dict()
    bench.report["limits"] = {"peaks": peaks.to_dict(), "size": str(size), "networks": rows}


def stages(bench: Bench) -> None:
    """Stage by stage, over clips of one segment; the last trace of a clip of two segments is kept whole."""
    preset, media, landmarker = bench.main.preset, inputs.media(), Landmarker()
    kept: list[Trace] = []
    for index in range(bench.settings.clips):
        options = Options(max_frames=preset.segment_frames, seed=index)
        kept.append(traced(bench.main, [media.reference], media.driving, options, landmarker)[1])
    for stage in kept[0].stage_seconds():
        bench.add(_timing(f"stage/{stage}", [trace.stage_seconds()[stage] for trace in kept]))
    bench.add(_timing("step/denoiser", [seconds for trace in kept for seconds in trace.step_seconds()]))
    options = Options(max_frames=2 * preset.segment_frames - 1)
    bench.report["trace"] = traced(bench.main, [media.reference], media.driving, options, landmarker)[1].to_dict()


def growth(bench: Bench) -> None:
    """Curves over sizes; peak memory of whole clips in fresh processes."""
    quick, preset, media = bench.settings.quick, bench.main.preset, inputs.media()
    curves = scaling.engine_curves(bench.main, 3 if quick else 5, quick)
    animator = Animator(bench.main)

    def clip(steps: int) -> object:
        return animator.animate([media.reference], media.driving, Options(steps=steps, max_frames=13))

    curves.append(scaling.steps_curve(clip, [2, 4] if quick else [2, 4, 8], 2 if quick else 3))
    clips = scaling.clip_scaling(bench.main_folder, preset, quick)
    curves.append(clips.time())
    named = {f"{curve.name} / {curve.axis}": curve.to_dict() for curve in curves}
    bench.report["scaling"] = {"curves": named, **clips.to_dict(preset.fps)}
    bench.report["summary"]["memory_exponent"] = clips.memory().exponent.to_dict()


def outside(bench: Bench) -> None:
    """diffusers' network of equal width and depth, where diffusers is installed."""
    from dreamactor.benchmark.outside import compare_with_wan

    bench.report["peers"]["WanAnimateTransformer3DModel"] = compare_with_wan(bench.main, bench.settings.rounds)


def _run(session: Any, given: Mapping[str, Mapping[str, Array]], network: str) -> object:
    return session.run(given[network])


def _timing(name: str, seconds: list[float]) -> Timing:
    """Samples that a trace took, where no yardstick ran in between."""
    if not seconds:
        raise DreamActorError(f"No samples of {name}.")
    return Timing(name, tuple(Sample(value, value, 1.0) for value in seconds))


PLAN: tuple[tuple[str, str, Callable[[Bench], None]], ...] = (
    ("engine", "engines, first block", partial(engines, block=0)),
    ("peers", "other precisions, PyTorch eager and compiled", compare_peers),
    ("trace", "stages", stages),
    ("engine", "engines, second block", partial(engines, block=1)),
    ("service", "service over gRPC", load_service),
    ("scaling", "scaling", growth),
    ("outside", "diffusers' network of equal size", outside),
    ("engine", "engines, third block", partial(engines, block=2)),
    ("engine", "limits and profiles", limits),
)
