"""Each engine of a set that was just made, beside its FP32 network: the rows of the table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamactor.engines.manifest import Manifest, NetworkRecord
from dreamactor.engines.store import Entry
from dreamactor.engines.trust import runs_here
from dreamactor.engines.verify import verify_engine
from dreamactor.production.gate import Verdict, repaired
from dreamactor.production.report import Row
from dreamactor.production.stages import Stages


def measure(
    stages: Stages,
    folder: Path,
    manifest: Manifest,
    lowered: Mapping[str, Entry],
    engines: Mapping[str, Entry],
    verdict: Verdict | None,
) -> list[Row]:
    """Runs every engine of the set in `folder`; one that does not run here says why, and fails where it should."""
    rows = []
    for name, entry in engines.items():
        record, source = manifest.network(name), stages.onnx(name)
        stages.on_progress(f"verifying {name}", 0, 0)
        plain = source.paths[0] if len(source.paths) == 1 else None  # large weights would be in memory twice
        compared = verify_engine(folder, name, plain)
        facts = {**lowered[name].facts, **entry.facts}
        snr = compared.snr_db if compared.snr_db is not None else facts["snr_db"]
        gate = stages.keys.recipe.gate(record.precision)
        reached = snr >= gate if snr is not None else record.precision == "fp32"
        ran = not compared.problem
        rows.append(
            Row(
                network=name,
                precision=record.precision,
                bytes=entry.bytes,
                onnx_bytes=lowered[name].bytes,
                source_bytes=source.bytes,
                latency_ms=compared.latency_ms,
                reference_ms=compared.reference_ms,
                snr_db=snr if snr is None or math.isfinite(snr) else None,
                video_psnr_db=None if verdict is None else verdict.alone[name],
                passed=bool(facts.get("passed", True)) and reached and (ran or not runs_here(record)),
                note=_note(record, compared.problem.removeprefix(f"{name} was "), facts),
                put_back=repaired(lowered[name]),
                facts={**facts, "build_seconds": round(entry.seconds, 1)},
                ran=ran,
            )
        )
    return rows


def _note(record: NetworkRecord, problem: str, facts: Mapping[str, Any]) -> str:
    if problem:
        return f"not run here: {problem}"
    if facts.get("quantized_layers") == 0:
        return f"what stays {record.precision.upper()} has no layer that is faster in 8 bits here"
    return ""
