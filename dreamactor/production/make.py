"""`make engines`: the plan, the work, the table, the report. What is in the store already is not made again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dreamactor.engines.manifest import MAX_REFERENCES, Manifest, NetworkRecord
from dreamactor.engines.runtimes import runtime_version
from dreamactor.engines.session import TensorSpec
from dreamactor.engines.sets import EngineFiles, read_manifest, require_writable, write_set
from dreamactor.engines.store import Entry
from dreamactor.errors import EngineError
from dreamactor.production import beside
from dreamactor.production.gate import Lowered, Verdict, lower_all
from dreamactor.production.keys import Keys, digest
from dreamactor.production.plan import check_memory, describe, plan
from dreamactor.production.report import Row, table, to_html, to_json
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
    stages = Stages(request, on_progress)
    log(f"{request.preset.name} in {request.precision} for {request.target.name}: {check_memory(stages)}.")
    if request.checkpoint is None:
        log("No checkpoint: random weights, so the video shows no person and its quality gate does not apply.")
    if request.target.name == "cpu" and request.precision in ("fp16", "bf16", "fp8"):
        log(f"{request.precision} on the CPU checks accuracy only; it is slower there than fp32. int8 is faster.")
    log("\n".join(describe(plan(stages))))
    lowered, verdict = lower_all(stages, log)
    engines = {name: _engine(stages, name, lowered) for name in request.networks}
    manifest = _write(stages, lowered, engines)
    rows = _verify(stages, manifest, lowered, engines, verdict)
    summary = _summary(stages, verdict, rows)
    (request.output / REPORT_JSON).write_text(to_json(summary, rows))
    (request.output / REPORT_HTML).write_text(to_html(summary, rows))
    text = _text(summary, rows)
    log(text)
    log(f"{request.output}: {sum(f.bytes for r in manifest.networks.values() for f in r.files) / 1e6:.1f} MB")
    return Result(request.output, summary["passed"], True, text)


def up_to_date(request: Request) -> Result | None:
    """The finished set, when it was made from exactly what would be used now."""
    path = request.output / REPORT_JSON
    try:
        report = json.loads(path.read_text())
        manifest = read_manifest(request.output)
        if report["key"] != _set_key(request) or set(manifest.networks) != set(request.networks):
            return None
        files = [file for record in manifest.networks.values() for file in record.files]
        if any((request.output / file.path).stat().st_size != file.bytes for file in files):
            return None
        rows = [Row(**{**row, "put_back": tuple(row["put_back"])}) for row in report.pop("networks")]
        return Result(request.output, bool(report["passed"]), False, _text(report, rows))
    except (OSError, ValueError, KeyError, TypeError, EngineError):
        return None


def _set_key(request: Request) -> str:
    keys = Keys(request)
    version = runtime_version(request.target.runtime) if not request.target.is_onnx else ""
    parts = {name: keys.engine(name, keys.precision(name), version) for name in request.networks}
    return digest({"target": request.target.name, "networks": parts})


def _engine(stages: Stages, network: str, lowered: Lowered) -> Entry:
    entry = lowered.entries[network]
    if stages.request.target.is_onnx:
        return entry
    return stages.engine(network, entry, stages.keys.precision(network, lowered.put_back[network]))


def _write(stages: Stages, lowered: Lowered, engines: dict[str, Entry]) -> Manifest:
    request, files = stages.request, []
    for name, entry in engines.items():
        inputs, outputs = _specs(stages, name, entry)
        record = NetworkRecord(
            name=name,
            precision=_precision(stages, lowered, name),
            runtime=request.target.runtime,
            runtime_version=runtime_version(request.target.runtime),
            architecture=request.target.architecture,
            files=(),
            inputs=inputs,
            outputs=outputs,
            source_sha256=str(stages.onnx(name).facts["sha256"]),
            weights_sha256=stages.keys.weights,
            notes=_notes(stages, lowered, name),
        )
        files.append(EngineFiles(record, entry.paths))
    most = MAX_REFERENCES if request.target.is_onnx else request.ranges.references
    return write_set(request.output, request.preset, request.precision, request.target.name, files, most)


def _specs(stages: Stages, name: str, entry: Entry) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    if "inputs" in entry.facts:
        inputs, outputs = ([TensorSpec.from_dict(spec) for spec in entry.facts[key]] for key in ("inputs", "outputs"))
        return tuple(inputs), tuple(outputs)
    from dreamactor.production.stages import open_onnx

    session = open_onnx(entry.paths[0], name)
    try:
        return session.inputs, session.outputs
    finally:
        session.close()


def _precision(stages: Stages, lowered: Lowered, name: str) -> str:
    """What the network really is: one that the recipe quantises nothing of stays what the rest of it is."""
    nothing = lowered.entries[name].facts.get("quantized_layers") == 0
    return stages.keys.recipe.high if nothing else stages.request.precision


def _put_back(lowered: Lowered, name: str) -> tuple[str, ...]:
    return tuple(lowered.entries[name].facts["put_back"])


def _notes(stages: Stages, lowered: Lowered, name: str) -> tuple[str, ...]:
    from dreamactor.engines.onnxruntime_graph import describe

    modules = _put_back(lowered, name)
    put_back = [f"put back to high precision: {', '.join(modules)}"] if modules else []
    return (*put_back, *describe(stages.source(name).facts.get("rewrites", {})))


def _verify(
    stages: Stages, manifest: Manifest, lowered: Lowered, engines: dict[str, Entry], verdict: Verdict | None
) -> list[Row]:
    from dreamactor.engines.verify import verify_engine

    request, rows = stages.request, []
    for name, entry in engines.items():
        source = stages.onnx(name)
        stages.on_progress(f"verifying {name}", 0, 0)
        samples = stages.samples().folder if stages.keys.records else None
        feeds = beside.feeds(samples, request.preset, manifest.network(name))
        compared = verify_engine(request.output, name, source.paths[0], feeds)
        facts = {**lowered.entries[name].facts, **(entry.facts if entry is not lowered.entries[name] else {})}
        snr = compared.snr_db if compared.snr_db is not None else facts["snr_db"]
        precision = _precision(stages, lowered, name)
        gate = beside.gate(precision, stages.keys.recipe)
        rows.append(
            Row(
                network=name,
                precision=precision,
                bytes=entry.bytes,
                onnx_bytes=lowered.entries[name].bytes,
                source_bytes=source.bytes,
                latency_ms=compared.latency_ms,
                reference_ms=compared.reference_ms,
                snr_db=snr if snr is None or math.isfinite(snr) else None,
                video_psnr_db=None if verdict is None else verdict.alone[name],
                passed=bool(facts.get("passed", True)) and (snr >= gate if snr is not None else precision == "fp32"),
                note=_note(compared.problem.removeprefix(f"{name} was "), facts),
                put_back=_put_back(lowered, name),
                facts={**facts, "build_seconds": round(entry.seconds, 1)},
            )
        )
    return rows


def _note(problem: str, facts: Mapping[str, Any]) -> str:
    if problem:
        return f"not run here: {problem}"
    return "convolutions are no faster in 8 bits here: FP32" if facts.get("quantized_layers") == 0 else ""


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
        "weights": "random" if request.checkpoint is None else str(request.checkpoint),
        "inputs": stages.samples().facts["source"] if stages.keys.records else "",
        "passed": passed,
        "key": _set_key(request),
        "store": {
            "root": str(request.store.resolve()),
            "samples": stages.samples().digest if stages.keys.records else "",
            "onnx": {name: stages.onnx(name).digest for name in request.networks},
        },
    }
    if verdict is not None:
        summary |= {
            "video_psnr_db": round(verdict.psnr, 2), "video_ssim": round(verdict.ssim, 4),
            "video_psnr_frames_db": [round(value, 2) for value in verdict.frames], "video_gate_db": verdict.gate,
        }  # fmt: skip
    return summary


def _text(summary: dict[str, Any], rows: list[Row]) -> str:
    lines = [table(rows)]
    if "video_psnr_db" in summary:
        gate = summary["video_gate_db"]
        wanted = f"gate {gate:.0f} dB" if gate is not None else "no gate for random weights"
        lines.append(
            f"video against FP32: {summary['video_psnr_db']:.1f} dB PSNR, SSIM {summary['video_ssim']:.4f} ({wanted})"
        )
    return "\n".join(lines)
