"""`dreamactor verify`: a finished set against the FP32 networks and inputs it was made from.

Not Polygraphy's comparator: it opens engines by path, past the checks that come before a deserialiser, and compares
element by element against tolerances, where the gates here are signal-to-noise in decibels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dreamactor.engines import trust
from dreamactor.engines.manifest import Manifest
from dreamactor.engines.sets import read_manifest
from dreamactor.engines.store import ENTRY
from dreamactor.engines.verify import verify_engine
from dreamactor.errors import EngineError
from dreamactor.export.recipes import recipe
from dreamactor.production import beside
from dreamactor.production.make import REPORT_JSON
from dreamactor.production.report import Row, from_json, table

_REMAKE = "remove the set and build it again"  # while it is whole, it is up to date


@dataclass(frozen=True)
class Source:
    """Where a set's FP32 networks and recorded inputs lie; `samples` is None where none were recorded."""

    onnx: dict[str, Path]
    samples: Path | None


def verify_set(folder: Path, public_key: bytes | None = None) -> tuple[bool, str]:
    """Checks every file of the set, runs each engine beside ONNX Runtime FP32, and returns whether all ran and passed,
    and the table. An engine that cannot run on this machine has not passed, and the table says why.

    Raises EngineError when a check before loading fails, or what the set was made from is not there any more.
    """
    manifest = read_manifest(folder, public_key)
    for record in manifest.networks.values():
        for file in record.files:
            trust.check_file(folder, file)
    rows, source = _report(folder, manifest)
    found = [_verified(folder, manifest, row, source, public_key) for row in rows]
    idle = [row.network for row in found if not row.ran]
    files = sum(len(record.files) for record in manifest.networks.values())
    lines = [table(found), f"all {files} files are those of the manifest"]
    if idle:
        lines.append(f"NOT VERIFIED: {len(idle)} of {len(found)} engines cannot run here; SNR and PSNR are the build's")
    return all(row.passed for row in found) and not idle, "\n".join(lines)


def _report(folder: Path, manifest: Manifest) -> tuple[list[Row], Source]:
    """The build's rows and what they were measured on; the report is not signed, so the manifest has the last word."""
    try:
        summary, rows = from_json((folder / REPORT_JSON).read_text())
        store = summary["store"]
        root, samples_sha256 = Path(store["root"]), store["samples_sha256"]
        onnx = {name: root / "onnx" / digest / f"{name}.onnx" for name, digest in store["onnx"].items()}
        samples = root / "samples" / store["samples"] if store["samples"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{folder} has no readable {REPORT_JSON}: build it again with 'make engines'.") from error
    missing = [path for path in (*onnx.values(), samples) if path is not None and not path.exists()]
    if missing:
        raise EngineError(f"{missing[0]} is not there any more, and {folder} is verified against it: {_REMAKE}.")
    if sorted(row.network for row in rows) != sorted(manifest.networks) or set(onnx) != set(manifest.networks):
        raise EngineError(f"{folder}/{REPORT_JSON} and the manifest name different networks: {_REMAKE}.")
    for name, path in onnx.items():
        if _sha256(path.parent) != manifest.network(name).source_sha256:
            raise EngineError(f"{path} is not what {name} was made from (its SHA-256 differs): {_REMAKE}.")
    if samples is not None and _sha256(samples) != samples_sha256:
        raise EngineError(f"The inputs in {samples} are not those that were recorded: {_REMAKE}.")
    rows = [replace(row, precision=manifest.network(row.network).precision) for row in rows]
    return rows, Source(onnx, samples)


def _sha256(entry: Path) -> str:
    """Of all the files of a store's entry: an ONNX and its weights, or recorded inputs."""
    return trust.sha256(*sorted(path for path in entry.iterdir() if path.name != ENTRY))


def _verified(folder: Path, manifest: Manifest, row: Row, source: Source, public_key: bytes | None) -> Row:
    feeds = beside.feeds(source.samples, manifest.preset, manifest.network(row.network))
    compared = verify_engine(folder, row.network, source.onnx[row.network], feeds, public_key=public_key)
    if compared.problem:
        note = f"not run here: {compared.problem.removeprefix(row.network + ' was ')}"
        return replace(row, latency_ms=None, ran=False, note=note)
    gate = beside.gate(row.precision, recipe(manifest.precision, manifest.target))
    passed = compared.snr_db is not None and compared.snr_db >= gate
    return replace(
        row, latency_ms=compared.latency_ms, reference_ms=compared.reference_ms, snr_db=compared.snr_db, passed=passed,
        note="",
    )  # fmt: skip
