"""`dreamactor verify`: a finished set against the FP32 networks and inputs it was made from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from dreamactor.engines.sets import read_manifest
from dreamactor.engines.verify import verify_engine
from dreamactor.errors import EngineError
from dreamactor.export.recipes import recipe
from dreamactor.production.make import REPORT_JSON
from dreamactor.production.report import Row, table


def verify_set(folder: Path, public_key: bytes | None = None) -> tuple[bool, str]:
    """Checks every file of the set, runs each engine beside ONNX Runtime FP32, and returns whether all passed and the
    table. Raises EngineError when a check before loading fails, or the set's report is missing."""
    manifest = read_manifest(folder, public_key)
    try:
        report = json.loads((folder / REPORT_JSON).read_text())
        store, rows = report["store"], [_row(values) for values in report["networks"]]
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(f"{folder} has no readable {REPORT_JSON}: build it again with 'make engines'.") from error
    gate = recipe(manifest.precision, manifest.target).snr_gate
    found = [_verified(folder, row, store, gate) for row in rows]
    return all(row.passed for row in found), table(found)


def _row(values: dict[str, Any]) -> Row:
    return Row(**{**values, "put_back": tuple(values["put_back"])})


def _verified(folder: Path, row: Row, store: dict[str, Any], gate: float) -> Row:
    from dreamactor.export.calibrate import load_samples

    if not store["samples"]:  # FP32 on the CPU is what the others are compared with
        return row
    root = Path(store["root"])
    samples = load_samples(root / "samples" / store["samples"], row.network)
    source = root / "onnx" / store["onnx"][row.network] / f"{row.network}.onnx"
    compared = verify_engine(folder, row.network, source, list(samples.feeds())[:2])
    if compared.problem:
        return replace(row, note=f"not run here: {compared.problem.removeprefix(row.network + ' was ')}")
    passed = compared.snr_db is not None and (row.precision == "fp32" or compared.snr_db >= gate)
    return replace(
        row, latency_ms=compared.latency_ms, reference_ms=compared.reference_ms, snr_db=compared.snr_db, passed=passed
    )
