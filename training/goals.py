"""An evaluation's report as Markdown: every figure by framing, and the goals set for the `puppet` checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]

ROWS = (
    ("PSNR, dB", "psnr", 2),
    ("– copying the reference", "psnr_copy_reference", 2),
    ("– the VAE's own reconstruction", "psnr_vae", 2),
    ("– no pose", "psnr_no_pose", 2),
    ("– no face", "psnr_no_face", 2),
    ("– no reference", "psnr_no_reference", 2),
    ("SSIM", "ssim", 3),
    ("– copying the reference", "ssim_copy_reference", 3),
    ("– the VAE's own reconstruction", "ssim_vae", 3),
    ("Joint error, share of the height", "joint_error", 3),
    ("– copying the reference", "joint_error_copy_reference", 3),
    ("– no pose", "joint_error_no_pose", 3),
    ("Identity colour error, of 255", "identity_error", 1),
    ("– no reference", "identity_error_no_reference", 1),
    ("Mouth opening, correlation", "mouth_correlation", 2),
    ("– the VAE's own reconstruction", "mouth_correlation_vae", 2),
    ("– no face", "mouth_correlation_no_face", 2),
    ("Flicker, levels of 255", "flicker", 2),
    ("Drift after four segments, dB", "drift_db", 2),
)


def table(report: Report) -> str:
    """Figures in rows; all framings, with the standard error over clips, and each in columns."""
    framings = report["by_framing"]
    head = ["", "all", *framings]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for label, name, digits in ROWS:
        error = report["standard_error"].get(name)
        overall = _number(report[name], digits) + (f" ± {error:.{digits}f}" if error is not None else "")
        lines.append([label, overall, *(_number(column[name], digits) for column in framings.values())])
    return _lines(lines)


def goals(report: Report) -> str:
    """Each goal, what was found, and whether it is met. An ablation is clearly worse with half as much error again, or
    with a mouth's correlation lower by 0.3."""
    known = {name: float("nan") if value is None else value for name, value in report.items()}
    psnr, joints, mouth, colour, drift = (
        known[name] for name in ("psnr", "joint_error", "mouth_correlation", "identity_error", "drift_db")
    )
    gain, loss = psnr - known["psnr_copy_reference"], known["psnr_vae"] - psnr
    still, silent = known["joint_error_no_pose"], known["mouth_correlation_no_face"]
    stranger = known["identity_error_no_reference"]
    found = (
        ("PSNR at least 6 dB over copying the reference", f"{gain:+.1f} dB", gain >= 6),
        ("PSNR within 4 dB of the VAE's reconstruction", f"{loss:.1f} dB below", loss <= 4),
        ("mouth correlation at least 0.8", f"{mouth:.2f}", mouth >= 0.8),
        ("joint error at most 4 % of the height", f"{100 * joints:.1f} %", joints <= 0.04),
        ("drift after four segments at most 1.5 dB", f"{drift:.1f} dB", drift <= 1.5),
        ("no pose clearly worse in joints", f"{100 * still:.1f} against {100 * joints:.1f} %", still >= 1.5 * joints),
        ("no face clearly worse in the mouth", f"{silent:.2f} against {mouth:.2f}", silent <= mouth - 0.3),
        ("no reference clearly worse in colour", f"{stranger:.1f} against {colour:.1f}", stranger >= 1.5 * colour),
    )
    rows = [[goal, value.replace("nan", "–"), "met" if met else "**missed**"] for goal, value, met in found]
    return _lines([["goal", "found", ""], ["---"] * 3, *rows])


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _lines(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
