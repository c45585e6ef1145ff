"""`dreamactor verify`: a finished set on the machine that it lies on, against what FP32 makes of the same inputs.

The set has all that takes, one example of each network: it need not lie where it was built. Not Polygraphy's
comparator: it opens engines by path, past the checks that come before a deserialiser, and compares element by element
against tolerances, where the gates here are signal-to-noise in decibels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from dreamactor.engines import trust
from dreamactor.engines.manifest import Manifest
from dreamactor.engines.sets import read_manifest
from dreamactor.engines.verify import verify_engine
from dreamactor.errors import EngineError
from dreamactor.export.recipes import recipe
from dreamactor.production.make import REPORT_JSON
from dreamactor.production.report import Row, from_json, table


@dataclass(frozen=True)
class Verified:
    """`rows` are the build's with what was measured here in place of what was measured there; all `files` of the set
    are those of its manifest."""

    rows: tuple[Row, ...]
    files: int

    @property
    def passed(self) -> bool:
        """Whether every engine ran and passed: one that cannot run on this machine has not."""
        return all(row.ran and row.passed for row in self.rows)

    @property
    def text(self) -> str:
        """The table and what it leaves unsaid."""
        lines = [table(self.rows), f"all {self.files} files are those of the manifest"]
        idle = sum(not row.ran for row in self.rows)
        if idle:
            lines.append(
                f"NOT VERIFIED: {idle} of {len(self.rows)} engines cannot run here; SNR and PSNR are the build's"
            )
        return "\n".join(lines)


def verify_set(folder: Path, public_key: bytes | None = None) -> Verified:
    """Checks every file of the set and runs each engine on its example.

    Raises EngineError when a check before loading fails, or the set has no report or examples.
    """
    manifest = read_manifest(folder, public_key)
    files = [file for record in manifest.networks.values() for file in record.all_files]
    for file in files:
        trust.check_file(folder, file)
    rows = tuple(_verified(folder, manifest, row, public_key) for row in _rows(folder, manifest))
    return Verified(rows, len(files))


def _rows(folder: Path, manifest: Manifest) -> list[Row]:
    """The build's rows; the report is not signed, so the manifest has the last word."""
    try:
        _, rows = from_json((folder / REPORT_JSON).read_text())
        networks = sorted(row.network for row in rows)
        table(rows)  # what cannot be shown is no report either
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{folder} has no readable {REPORT_JSON}: build it again with 'make engines'.") from error
    if networks != sorted(manifest.networks):
        raise EngineError(
            f"{folder}/{REPORT_JSON} and the manifest name different networks: remove the set and build it again."
        )
    return [replace(row, precision=manifest.network(row.network).precision) for row in rows]


def _verified(folder: Path, manifest: Manifest, row: Row, public_key: bytes | None) -> Row:
    compared = verify_engine(folder, row.network, public_key=public_key)
    if compared.snr_db is None:
        note = f"not run here: {compared.problem.removeprefix(row.network + ' was ')}"
        return replace(row, latency_ms=None, reference_ms=None, ran=False, note=note)
    return replace(
        row, latency_ms=compared.latency_ms, reference_ms=None, ran=True, note=row.note if row.ran else "",
        snr_db=compared.snr_db if math.isfinite(compared.snr_db) else None,
        passed=compared.snr_db >= recipe(manifest.precision, manifest.target).gate(row.precision),
    )  # fmt: skip
