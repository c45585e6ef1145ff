"""The table that ends a build, what is said below it, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One network of a set.

    `bytes` of the engine, `onnx_bytes` and `source_bytes` of the ONNX in this precision and in FP32: a TensorRT-RTX
    engine also holds the kernels it may need, the ONNX shows how the weights are stored. `snr_db` of its worst output
    against FP32 on recorded inputs; `video_psnr_db` with only this network lowered. `ran` is False where the engine did
    not run, and `note` says why: `latency_ms` is then None, `snr_db` that of its ONNX, and it has `passed` only if it
    is for another machine.
    """

    network: str
    precision: str
    bytes: int
    onnx_bytes: int
    source_bytes: int
    latency_ms: float | None
    reference_ms: float | None
    snr_db: float | None
    video_psnr_db: float | None
    passed: bool
    note: str = ""
    put_back: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    ran: bool = True

    @property
    def verdict(self) -> str:
        return "FAIL" if not self.passed else "pass" if self.ran else "not run"


HEAD = ("network", "precision", "engine", "ONNX", "of FP32", "latency", "FP32", "SNR", "video PSNR", "")


def cells(row: Row) -> tuple[str, ...]:
    return (
        row.network,
        row.precision,
        f"{row.bytes / 1e6:.2f} MB",
        f"{row.onnx_bytes / 1e6:.2f} MB",
        f"{100 * row.onnx_bytes / max(row.source_bytes, 1):.0f} %",
        number(row.latency_ms, "ms"),
        number(row.reference_ms, "ms"),
        number(row.snr_db, "dB"),
        number(row.video_psnr_db, "dB"),
        row.verdict,
    )


def table(rows: Sequence[Row]) -> str:
    """For a terminal."""
    lines = [HEAD, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, *(f"  {note}" for note in notes(rows))])


def text(summary: dict[str, Any], rows: Sequence[Row]) -> str:
    """The table and what is to be said of the whole set, for a terminal."""
    return "\n".join([table(rows), *sentences(summary, rows)])


def sentences(summary: dict[str, Any], rows: Sequence[Row]) -> list[str]:
    """What is to be said of the whole set: what did not run, how the video compares."""
    found = []
    idle = sum(not row.ran for row in rows)
    if idle:
        found.append(f"{idle} of {len(rows)} engines did not run here: their SNR is that of their ONNX on the CPU")
    if "video_psnr_db" in summary:
        gate, before = summary["video_gate_db"], summary["video_psnr_before_repair_db"]
        wanted = f"gate {gate:.0f} dB" if gate is not None else "no gate for random weights"
        repaired = f", {before:.1f} dB before repair" if before is not None else ""
        found.append(
            f"video against FP32: {summary['video_psnr_db']:.1f} dB PSNR, SSIM {summary['video_ssim']:.4f}; its worst "
            f"frames {summary['video_worst_frame_psnr_db']:.1f} dB, {summary['video_worst_frame_ssim']:.4f} "
            f"({wanted}{repaired})"
        )
    if summary.get("rehearsed"):
        found.append(summary["rehearsed"])
    return found


def notes(rows: Sequence[Row]) -> list[str]:
    """What is to be known of the engines beyond their rows, a line each."""
    found = [*dict.fromkeys(row.note for row in rows if row.note)]
    found += [f"{row.network}: {note}" for row in rows for note in _notes(row)]
    return [" ".join(note.split()) for note in found]  # a builder's error may have several


def _notes(row: Row) -> Iterator[str]:
    facts = row.facts
    if facts.get("fused_attention"):
        yield f"fused attention: {', '.join(facts['fused_attention'])}"
    if facts.get("unfused"):
        yield f"{facts['unfused']}: TensorRT took what it measured as the fastest"
    if facts.get("attention_ms"):
        times = ", ".join(f"{way} {ms:.2f} ms" for way, ms in facts["attention_ms"].items())
        yield f"attention is {facts['attention']}: {times}"
    if facts.get("no_plugin") and row.network == "denoiser":  # the others have no attention for it
        again = "; the next build tries again, with --attention native it does not" if facts.get("retry") else ""
        yield f"without our attention kernels: {facts['no_plugin']}{again}"
    if facts.get("no_native"):
        yield f"not built with TensorRT's own attention: {facts['no_native']}"
    if facts.get("layers_unmeasured"):
        measured = len(facts["layer_snr_db"])
        yield f"error layer by layer of the first {measured} alone: {facts['layers_unmeasured']} more are not measured"
    if row.put_back:
        yield f"put back to high precision: {', '.join(row.put_back)} ({_before(row)})"


def _before(row: Row) -> str:
    """What a repair cost, and gained."""
    size, snr = row.facts["bytes_before_repair"], row.facts["snr_before_repair_db"]
    return f"before: ONNX {size / 1e6:.2f} MB, SNR {number(snr, 'dB')}"


def to_json(summary: dict[str, Any], rows: Sequence[Row]) -> str:
    return json.dumps({**summary, "networks": [asdict(row) for row in rows]}, indent=1) + "\n"


def from_json(text: str) -> tuple[dict[str, Any], list[Row]]:
    """Summary and rows of `to_json`; raises ValueError, KeyError or TypeError for what is no report."""
    summary = dict(json.loads(text))
    rows = [Row(**{**values, "put_back": tuple(values["put_back"])}) for values in summary.pop("networks")]
    return summary, rows


def number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f} {unit}"
