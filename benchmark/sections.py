"""The sections of a run, in the order they run. Each takes the shared `Bench` and adds to its report and timings.

Engines and stages are measured at several moments spread over the run, so that one busy minute does not decide, and
`bench compare` sees how far a machine's moments lie apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from dreamactor.benchmark import inputs, scaling
from dreamactor.benchmark.bench import Bench
from dreamactor.benchmark.count import count
from dreamactor.benchmark.device_clock import DeviceClock
from dreamactor.benchmark.engine_sets import on_gpu
from dreamactor.benchmark.peers import compare_peers
from dreamactor.benchmark.profiles import profile
from dreamactor.benchmark.roofline import Peaks, measure_gpu_peaks, measure_peaks, placed
from dreamactor.benchmark.service import load_service
from dreamactor.benchmark.tensorrt_profiles import profile_engine, source_model
from dreamactor.benchmark.timing import Case, Sample, Timing, Yardstick, interleave
from dreamactor.benchmark.trace import STAGES, Trace, traced
from dreamactor.engines.onnxruntime import session_options
from dreamactor.engines.session import Array, Session
from dreamactor.engines.tensorrt import TensorRTSession
from dreamactor.errors import DreamActorError, EngineError
from dreamactor.export.recipes import recipe
from dreamactor.interfaces import Size, random_inputs
from dreamactor.motion.landmarks import Landmarker
from dreamactor.pipeline import Animator, Options

Part = tuple[str, str, Callable[[Bench], None]]  # section, title, work


def engines(bench: Bench, block: int) -> None:
    """Every network of every set at the size of one segment, in turn, on inputs drawn fresh each round; for TensorRT's
    also what the same runs took on the GPU alone."""
    given: dict[str, Mapping[str, Array]] = {}
    size = Size.of(bench.main.preset)

    def fresh(round_: int) -> None:
        for network in bench.main.sessions:
            given[network] = random_inputs(bench.main.preset, network, size, 1000 * block + round_)

    fresh(999)  # for the warm-up
    cases: dict[str, Case] = {}
    clocks: dict[str, DeviceClock] = {}
    with ExitStack() as closing:
        for name, opened in bench.sets.opened.items():
            for network, session in opened.sessions.items():
                case = f"{network}/{name}"
                cases[case] = partial(_run, session, given, network)
                if isinstance(session, TensorRTSession):
                    clocks[case] = DeviceClock(session)
                    closing.callback(clocks[case].close)
                    cases[case] = clocks[case].around(cases[case])
        timings = interleave(cases, bench.settings.each_moment, block=block, fresh=fresh)
    for case, timing in timings.items():
        bench.add(f"engine/{case}", timing)
    for case, clock in clocks.items():
        bench.add(f"device/{case}", clock.timing(timings[case]))


def limits(bench: Bench) -> None:
    """Where the time of every network of the main set goes, its work, and how far it is from the machine's limit."""
    sources = _sources(bench)
    try:
        _profiles(bench, sources)
    except EngineError as error:  # mostly a stripped plan
        bench.report["not_run"]["profiles"] = str(error)
    try:
        manifest = bench.main.manifest
        peaks = measure_gpu_peaks(manifest.precision) if on_gpu(manifest) else measure_peaks()
    except DreamActorError as error:
        bench.report["not_run"]["operations and limits"] = str(error)
        return
    _roofs(bench, peaks, sources)


def _sources(bench: Bench) -> dict[str, Path | None]:
    """Each network's ONNX, to count operations and name layers by; None where it is in no store here."""
    manifest, folder = bench.main.manifest, bench.main_folder
    records = [manifest.network(network) for network in bench.main.sessions]
    if on_gpu(manifest):
        return {record.name: source_model(folder, record) for record in records}
    return {record.name: folder / record.files[0].path for record in records}


def _profiles(bench: Bench, sources: Mapping[str, Path | None]) -> None:
    preset, folder, manifest = bench.main.preset, bench.main_folder, bench.main.manifest
    if manifest.target == "cuda":
        reason = "ONNX Runtime records when it started a GPU's kernels, not how long they took"
        bench.report["not_run"]["profiles"] = reason
        return
    for network in bench.main.sessions:
        record, given = manifest.network(network), random_inputs(preset, network, Size.of(preset), 3)
        if on_gpu(manifest):
            found = profile_engine(folder, record, given, sources[network])
        else:
            found = profile(folder / record.files[0].path, session_options, given)
        bench.report["profiles"][network] = found.to_dict()


def _roofs(bench: Bench, peaks: Peaks, sources: Mapping[str, Path | None]) -> None:
    """Every network of the main set against `peaks`, by the GPU's own time where that was taken."""
    manifest, rows, name = bench.main.manifest, {}, next(iter(bench.sets.opened))
    preset, size = bench.main.preset, Size.of(bench.main.preset)
    clock = "device" if f"device/denoiser/{name}" in bench.timings else "engine"
    half = on_gpu(manifest) and recipe(manifest.precision, manifest.target).high != "fp32"
    for network in bench.main.sessions:
        model = sources[network]
        if model is None:
            bench.report["not_run"][f"limit of {network}"] = "the ONNX it was built from is in no store here"
            continue
        work = count(model, random_inputs(preset, network, size, 3), float_bytes=2 if half else 4)
        rows[network] = placed(work, bench.timings[f"{clock}/{network}/{name}"].median().value, peaks)
    bench.report["limits"] = {"peaks": peaks.to_dict(), "size": str(size), "clock": clock, "networks": rows}


def stages(bench: Bench, block: int) -> None:
    """Stage by stage, over clips of one segment; the trace of a clip of two segments is kept whole at the first
    moment."""
    preset, media, landmarker, yardstick = bench.main.preset, inputs.media(), Landmarker(), Yardstick()

    def clip(frames: int, seed: int) -> Trace:
        options = Options(max_frames=frames, seed=seed)
        return traced(bench.main, [media.reference], media.driving, options, landmarker)[1]

    clip(preset.segment_frames, 0)  # warms up
    seeds = range(bench.settings.each_moment)
    kept = [(yardstick.run(), clip(preset.segment_frames, seed)) for seed in seeds]
    for stage in STAGES:
        samples = [
            Sample(trace.stage_seconds()[stage], trace.stage_seconds("processor")[stage], beside, block)
            for beside, trace in kept
        ]
        bench.add(f"stage/{stage}", Timing(tuple(samples)))
    steps = [Sample(step.seconds, step.processor, beside, block) for beside, trace in kept for step in trace.steps]
    bench.add("step/denoiser", Timing(tuple(steps)))
    if not bench.report["trace"]:
        bench.report["trace"] = clip(2 * preset.segment_frames - 1, 0).to_dict()


def time_scaling(bench: Bench) -> None:
    """Curves of time over sizes. What is found is kept at once: a later part may break."""
    quick, media, animator = bench.settings.quick, inputs.media(), Animator(bench.main)

    def clip(steps: int) -> object:
        return animator.animate([media.reference], media.driving, Options(steps=steps, max_frames=13))

    curves, refused = scaling.engine_curves(bench.main, 3 if quick else 5, quick)
    _keep_curves(bench, *curves)
    bench.report["not_run"] |= refused
    _keep_curves(bench, scaling.steps_curve(clip, [2, 4] if quick else [2, 4, 8], 2 if quick else 3))


def memory_scaling(bench: Bench) -> None:
    """Peak memory, and time, of whole clips in fresh processes: above all the long ones may end where memory does."""
    quick, preset, found = bench.settings.quick, bench.main.preset, bench.report["scaling"]
    clips, failed = scaling.clip_scaling(bench.main_folder, preset, quick)
    _keep_curves(bench, clips.time())
    bench.report["failed"] |= failed
    found |= clips.to_dict(preset.fps)
    bench.report["summary"]["memory_exponent"] = clips.memory().exponent.to_dict()
    most = bench.main.manifest.references
    curves, refused = scaling.memory_curves(bench.main_folder, preset, most, quick)
    found.setdefault("memory_curves", {}).update(curves)
    bench.report["not_run"] |= refused


def _keep_curves(bench: Bench, *curves: scaling.Curve) -> None:
    bench.report["scaling"].setdefault("curves", {}).update({curve.title: curve.to_dict() for curve in curves})


def outside(bench: Bench) -> None:
    """diffusers' network of equal width and depth, where diffusers is installed."""
    from dreamactor.benchmark.outside import compare_with_wan

    bench.report["peers"]["WanAnimateTransformer3DModel"] = compare_with_wan(bench.main, bench.settings.rounds)


def _run(session: Session, given: Mapping[str, Mapping[str, Array]], network: str) -> object:
    return session.run(given[network])


_BETWEEN: tuple[Part, ...] = (  # the longest last: a slow machine may not come to it
    ("peers", "other precisions, PyTorch eager and compiled", compare_peers),
    ("outside", "diffusers' network of equal size", outside),
    ("service", "service over gRPC", load_service),
    ("engine", "limits and profiles", limits),
    ("scaling", "time against sizes", time_scaling),
    ("scaling", "memory against sizes", memory_scaling),
)
MOMENTS = len(_BETWEEN) + 1


def _moment(block: int) -> tuple[Part, ...]:
    when = f"moment {block + 1} of {MOMENTS}"
    return (("engine", f"engines, {when}", partial(engines, block=block)),
            ("trace", f"stages, {when}", partial(stages, block=block)))  # fmt: skip


PLAN: tuple[Part, ...] = (
    *_moment(0), *(part for index, between in enumerate(_BETWEEN) for part in (between, *_moment(index + 1))),
)  # fmt: skip
