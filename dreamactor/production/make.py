"""`make engines`: the plan, the work, the table, the report. What is in the store already is not made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dreamactor.engines.manifest import Manifest, NetworkRecord
from dreamactor.engines.processor import VNNI
from dreamactor.engines.runtimes import runtime_version
from dreamactor.engines.session import TensorSpec
from dreamactor.engines.set_writing import EngineFiles, require_writable, write_set
from dreamactor.engines.sets import read_manifest
from dreamactor.engines.store import Entry
from dreamactor.engines.trust import check_file, runs_here, specs
from dreamactor.errors import EngineError
from dreamactor.interfaces import MAX_REFERENCES
from dreamactor.presets import Preset
from dreamactor.production import rehearsal
from dreamactor.production.example import example
from dreamactor.production.gate import Verdict, lower_all, repaired
from dreamactor.production.keys import Keys, digest
from dreamactor.production.measure import measure
from dreamactor.production.plan import check_disk, check_memory, describe, plan
from dreamactor.production.report import Row, from_json, text, to_json
from dreamactor.production.report_page import to_html
from dreamactor.production.request import Request
from dreamactor.production.stages import OnProgress, Stages

REPORT_JSON, REPORT_HTML = "report.json", "report.html"


@dataclass(frozen=True)
class Result:
    """`passed` is whether every gate was; `built` is False when the set was up to date."""

    folder: Path
    passed: bool
    built: bool
    text: str


def make_engines(
    request: Request, log: Callable[[str], None] = print, on_progress: OnProgress = lambda what, done, total: None
) -> Result:
    """Builds the set that is asked for, or finds it; `log` hears the plan and the table, `on_progress` every stage.

    Raises EngineError or InputError with the reason when something cannot be built; a missed quality gate is no
    exception but a `Result` that did not pass.
    """
    found = up_to_date(request)
    if found is not None:
        log(f"{request.output} is up to date.\n{found.text}")
        return found
    require_writable(request.output)
    _check_weights(request)
    stages = Stages(request, on_progress)
    steps = plan(stages)
    room = f"{check_memory(stages)}, {check_disk(stages, steps)}"
    log(f"{request.preset.name} in {request.precision} for {request.target.name}: {room}.")
    if request.checkpoint is None:
        log("No checkpoint: random weights, so the video shows no person and its quality gate does not apply.")
    if request.target.name == "cpu" and request.precision in ("fp16", "bf16", "fp8"):
        log(f"{request.precision} on the CPU checks accuracy only; it is slower there than fp32. int8 is faster.")
    log("\n".join(describe(steps)))
    if stages.rehearsal != request.preset:
        log(f"  {rehearsal.describe(request.preset)}")
    lowered, verdict = lower_all(stages, log)
    engines = lowered
    if not request.target.is_onnx:
        engines = {name: stages.engine(name, entry) for name, entry in lowered.items()}
    _write(stages, lowered, engines, verdict)
    manifest = read_manifest(request.output)
    summary, rows = from_json((request.output / REPORT_JSON).read_text())
    said = text(summary, rows)
    log(said)
    log(f"{request.output}: {sum(f.bytes for r in manifest.networks.values() for f in r.files) / 1e6:.1f} MB")
    return Result(request.output, summary["passed"], True, said)


def _check_weights(request: Request) -> None:
    from dreamactor.networks import StoredWeights

    if request.checkpoint is not None:
        StoredWeights(request.checkpoint, request.preset).require_finite()


def up_to_date(request: Request) -> Result | None:
    """The finished set, when it was made from exactly what would be used now, every file is as it was written, every
    engine for this machine ran here and none is to be tried again."""
    try:
        summary, rows = from_json((request.output / REPORT_JSON).read_text())
        manifest = read_manifest(request.output)
        if summary["key"] != _set_key(Keys(request)) or set(manifest.networks) != set(request.networks):
            return None
        if any(not row.ran and runs_here(manifest.network(row.network)) for row in rows):
            return None
        if any(row.facts.get("retry") for row in rows):
            return None
        for record in manifest.networks.values():
            for file in record.all_files:
                check_file(request.output, file)
        return Result(request.output, bool(summary["passed"]), False, text(summary, rows))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EngineError):
        return None


def weights_of(folder: Path) -> str | None:
    """What the set in `folder` was made of, as `Request.weights`; None where there is no report of one."""
    try:
        return str(from_json((folder / REPORT_JSON).read_text())[0]["weights"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def of_another_checkpoint(request: Request) -> tuple[str, bool] | None:
    """Of what the set in the request's place was made, as `Request.weights`, and whether it passed; None unless those
    are other trained weights: neither those of the request's folder, as they are or were, nor equal ones elsewhere."""
    try:
        summary, _ = from_json((request.output / REPORT_JSON).read_text())
        made_of, passed = str(summary["weights"]), bool(summary["passed"])
        built = {record.weights_sha256 for record in read_manifest(request.output).networks.values()}
    except (OSError, ValueError, KeyError, TypeError, EngineError):
        return None
    ours = made_of == "random" or _is_folder(request.checkpoint, made_of) or built == {Keys(request).weights}
    return None if ours else (made_of, passed)


def _is_folder(folder: Path | None, name: str) -> bool:
    return folder is not None and folder.resolve() == Path(name).resolve()


def _set_key(keys: Keys) -> str:
    """Names all that a set is made of; that of a build is taken with the keys that the build itself went by."""
    request = keys.request
    version = runtime_version(request.target.runtime) if not request.target.is_onnx else ""
    parts = {name: keys.engine(name, keys.precision(name), version) for name in request.networks}
    return digest({"target": request.target.name, "networks": parts, "code": keys.code["judge"]})


def _write(stages: Stages, lowered: Mapping[str, Entry], engines: Mapping[str, Entry], verdict: Verdict | None) -> None:
    """The set with its report, measured before it takes the place of an older one; an equal one, that another process
    made meanwhile, stays."""
    request, files = stages.request, []
    for name, entry in engines.items():
        inputs, outputs = _specs(request.preset, name, entry)
        record = NetworkRecord(
            name=name,
            precision=_precision(stages, lowered[name]),
            runtime=request.target.runtime,
            runtime_version=runtime_version(request.target.runtime),
            architecture=_architecture(stages, lowered[name]),
            files=(),
            inputs=inputs,
            outputs=outputs,
            source_sha256=stages.onnx(name).sha256,
            weights_sha256=stages.keys.weights,
            notes=(*_notes(stages, lowered[name], name), *request.build.notes),
            gpu=request.build.card(request.target),
        )
        weights = lowered[name].paths if request.build.strip else ()
        files.append(EngineFiles(record, (*entry.paths, *weights), example(stages, name).paths[0]))

    def complete(folder: Path, manifest: Manifest) -> None:
        rows = measure(stages, folder, manifest, lowered, engines, verdict)
        summary = _summary(stages, verdict, rows)
        (folder / REPORT_JSON).write_text(to_json(summary, rows))
        (folder / REPORT_HTML).write_text(to_html(summary, rows))

    most = MAX_REFERENCES if request.target.is_onnx else request.ranges.references
    write_set(
        request.output, request.preset, request.precision, request.target.name, files, most, complete,
        is_current=lambda: up_to_date(request) is not None,
    )  # fmt: skip


def _specs(preset: Preset, name: str, entry: Entry) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs: what TensorRT's builder told of the engine; an ONNX has the preset's."""
    if "inputs" not in entry.facts:
        return specs(preset, name)
    inputs, outputs = ([TensorSpec.from_dict(spec) for spec in entry.facts[key]] for key in ("inputs", "outputs"))
    return tuple(inputs), tuple(outputs)


def _precision(stages: Stages, lowered: Entry) -> str:
    """What the network really is: one that the recipe quantises nothing of stays what the rest of it is."""
    nothing = lowered.facts.get("quantized_layers") == 0
    return stages.keys.recipe.high if nothing else stages.request.precision


def _architecture(stages: Stages, lowered: Entry) -> str:
    """What the network runs on, as `trust.runs_on` reads it."""
    recipe, request = stages.keys.recipe, stages.request
    signed = recipe.dynamic and not recipe.unsigned and lowered.facts["quantized_layers"] > 0
    return VNNI if signed else request.build.architecture(request.target)


def _notes(stages: Stages, lowered: Entry, name: str) -> tuple[str, ...]:
    from dreamactor.engines.onnxruntime_graph import describe

    modules = repaired(lowered)
    put_back = [f"put back to high precision: {', '.join(modules)}"] if modules else []
    recipe = stages.keys.recipe
    method = stages.ranges(name).facts["method"] if recipe.calibrated else recipe.ranges
    other = [f"activation ranges by {method}, too large for {recipe.ranges}"] if method != recipe.ranges else []
    return (*put_back, *other, *describe(stages.source(name).facts.get("rewrites", {})))


def _summary(stages: Stages, verdict: Verdict | None, rows: list[Row]) -> dict[str, Any]:
    request = stages.request
    passed = all(row.passed for row in rows) and (verdict is None or verdict.passed)
    summary: dict[str, Any] = {
        "preset": request.preset.name,
        "precision": request.precision,
        "target": request.target.name,
        "runtime": request.target.runtime,
        "runtime_version": runtime_version(request.target.runtime),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights": request.weights,
        "inputs": stages.samples().facts["source"] if stages.keys.records else "",
        "inputs_sha256": stages.samples().sha256 if stages.keys.records else "",
        "rehearsed": rehearsal.describe(request.preset),
        "passed": passed,
        "key": _set_key(stages.keys),
    }
    if verdict is not None:
        video, before = verdict.video, verdict.before
        summary |= {
            "video_psnr_db": round(video.whole_psnr, 2), "video_worst_frame_psnr_db": round(min(video.psnr), 2),
            "video_ssim": round(video.mean_ssim, 4), "video_worst_frame_ssim": round(min(video.ssim), 4),
            "video_gate_db": verdict.gate, "video_psnr_before_repair_db": None if before is None else round(before, 2),
            "video_psnr_frames_db": [round(value, 2) for value in video.psnr],
            "video_ssim_frames": [round(value, 4) for value in video.ssim],
        }  # fmt: skip
    return summary
