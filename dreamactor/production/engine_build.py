"""One network's TensorRT engine: every way of attention that may be the fastest is built, and the fastest is kept."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamactor.engines.attention import NATIVE, PLUGIN, Choice, fastest, ways
from dreamactor.engines.builder import AMPERE_PLUS, BuildReport, BuildRequest, build_engine
from dreamactor.engines.runtimes import runtime_version
from dreamactor.engines.shapes import profile_shapes
from dreamactor.errors import EngineError
from dreamactor.interfaces import Size, random_inputs
from dreamactor.production.isolated import isolated
from dreamactor.production.lowering import attention_nodes, expected_layers

if TYPE_CHECKING:
    from dreamactor.engines.session import Array, Session
    from dreamactor.production.stages import Stages


def build_fastest(stages: Stages, network: str, onnx: Path, fused_type: str, folder: Path) -> dict[str, Any]:
    """Builds `onnx` to `folder/<network>.engine`; its facts say which attention it has and what each took.

    `fused_type` is that of the attention which TensorRT must fuse, "" for none. The fact "retry" is True where the
    plugin was not built or the ways could not be timed, perhaps for want of memory at that moment: the next build tries
    again, unless it is asked for native attention.
    """
    options, target = stages.request.build, stages.request.target
    asked = options.attention
    head_size = stages.request.preset.transformer.head_dim
    chosen, reason = ways(asked, target, attention_nodes(onnx), head_size, stages.keys.recipe.high)
    if PLUGIN in chosen and options.hardware_compatibility == AMPERE_PLUS:
        chosen, reason = (NATIVE,), f"our kernels are compiled for {target.architecture} alone"
    if asked == PLUGIN and PLUGIN not in chosen and network == "denoiser":
        raise EngineError(f"The attention plugin was asked for, and {network} cannot have it: {reason}.")
    reports: dict[str, BuildReport] = {}
    built, failed = dict[str, Path](), dict[str, str]()
    for way in chosen:
        path = folder / f"{way}.engine"
        try:
            reports[way] = _build(stages, network, onnx, path, way, fused_type)
            built[way] = path
        except EngineError as error:
            failed[way] = str(error)
    if not built:
        raise EngineError(" ".join(failed.values()))
    choice = Choice(next(iter(built)), {}, failed.get(PLUGIN, reason))
    retry = PLUGIN in failed
    if len(built) > 1:
        feed, weights = _timed_on(stages, network), onnx if options.strip else None
        least = stages.keys.recipe.snr_gate
        try:
            choice = Choice(**isolated(_timed, built, network, target.runtime, weights, feed, least))
        except EngineError as error:
            choice, retry = Choice(NATIVE, {}, f"the two could not be timed: {error}"), True
    built.pop(choice.way).replace(folder / f"{network}.engine")
    for path in built.values():
        path.unlink()
    return {**_facts(reports[choice.way], choice), "no_native": failed.get(NATIVE, ""), "retry": retry}


def _timed_on(stages: Stages, network: str) -> dict[str, Array]:
    """A recorded input, or noise of the preset's own size where it is recorded at a smaller one."""
    if stages.rehearsal == stages.request.preset:
        return stages.feeds(network).held_out
    return random_inputs(stages.request.preset, network, Size.of(stages.request.preset))


def _build(stages: Stages, network: str, onnx: Path, output: Path, way: str, fused_type: str) -> BuildReport:
    request, target, plugin = stages.request, stages.request.target, way == PLUGIN
    wanted = BuildRequest(
        onnx,
        target,
        [profile_shapes(request.preset, network, profile) for profile in request.profiles(network)],
        replace(request.build, attention=way),
        expected_layers(onnx, plugin),
        "" if plugin else fused_type,
        request.store / "timing" / f"{target.architecture}-{runtime_version(target.runtime)}.cache",
    )

    def hear(phase: str, step: int, steps: int) -> None:
        stages.on_progress(f"building {network}: {phase}", step, steps)

    return build_engine(wanted, output, hear)


def _timed(
    built: dict[str, Path], network: str, runtime: str, onnx: Path | None, feed: dict[str, Array], least_snr: float
) -> dict[str, Any]:
    """The fields of a `Choice`, in the process that takes a plugin's faults.

    Plans are opened as the set will be: a stripped one with the weights of `onnx`, which it was built from.
    """
    from dreamactor.engines.tensorrt import TensorRTSession, Weights

    weights = Weights(onnx.read_bytes(), onnx) if onnx else None

    def open_plan(path: Path) -> Session:
        return TensorRTSession(path.read_bytes(), network, runtime, weights)

    return asdict(fastest(built, open_plan, feed, least_snr))


def _facts(report: BuildReport, choice: Choice) -> dict[str, Any]:
    return {
        "layers": dict(report.layers), "fused_attention": list(report.fused_attention), "unfused": report.unfused,
        "attention": choice.way, "attention_ms": {way: round(ms, 3) for way, ms in choice.milliseconds.items()},
        "no_plugin": choice.reason,
        "inputs": [spec.to_dict() for spec in report.inputs],
        "outputs": [spec.to_dict() for spec in report.outputs],
        "warnings": list(report.warnings), "version": report.version,
    }  # fmt: skip
