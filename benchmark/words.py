"""Parts of the report in words, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def title(report: Mapping[str, Any]) -> str:
    """What was measured, and on what: the GPU where the main set, the first, runs there."""
    machine, settings = report["environment"], report["settings"]
    where = f"{machine.get('processor')}, {machine.get('cores')} cores"
    if next(iter(settings.get("targets", {}).values()), "cpu") != "cpu":
        where = f"{(machine.get('gpu') or {}).get('name', 'a GPU')} ({where})"
    return f"{settings.get('preset')} on {where}"


def exponents(scaling: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The fitted powers in words: of time against every axis, and of memory against those beside the frames."""
    found = [
        (f"time of {name.replace(' / ', ' against ')}", power(curve["exponent"]))
        for name, curve in scaling.get("curves", {}).items()
    ]
    for axis, curve in scaling.get("memory_curves", {}).items():
        of, held = "the server" if axis == "callers" else "a clip", [f"{size / 1e6:.0f}" for size in curve["bytes"]]
        sizes = ", ".join(f"{size:g}" for size in curve["sizes"])
        said = f"{', '.join(held)} MB at {sizes}; {power(curve['exponent'])}"
        found.append((f"memory of {of} against {axis}", said))
    return found


def power(fit: Mapping[str, Any], form: str = "{:.3f}") -> str:
    """A fitted power with its interval, or that the values tell none: where the interval is wider than 1."""
    if fit["low"] is None or fit["high"] is None or fit["high"] - fit["low"] > 1:
        return "no power is told by so few"
    return f"n^{fit['value']:.2f} {interval(fit, form)}"


def loads(service: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each load on the server in words: what was offered, and what came of it."""
    for load in service.get("loads", []):
        what = "callers" if load["kind"] == "closed" else "a second arrive"
        ranks = ", ".join(f"{rank} {load[rank]['value']:.2f} s" for rank in ("p50", "p90") if rank in load)
        yield f"load: {load['offered']:.2g} {what}", f"{load['throughput']:.2f} a second answered; {ranks}"


def longest(scaling: Mapping[str, Any]) -> str:
    """The longest clip in words, "" where it was not measured."""
    found = scaling.get("longest_clip")
    if not found:
        return ""
    return f"{found['frames_by_memory']} frames by this machine's memory, {found['frames_by_cap']} by the cap on input"


def memory_fit(fit: Mapping[str, Any]) -> str:
    """The fit of `scaling.ClipScaling.memory` in words."""
    idle, constant, each = (fit[key] / 1e6 for key in ("idle", "constant", "factor"))
    growth = f"frames^{fit['exponent']['value']:.2f}"
    return f"{idle:.0f} MB idle + {constant:.0f} MB + {each:.3g} MB x {growth}, from {fit['from']} frames on"


def interval(found: Mapping[str, Any], form: str = "{:.3f}") -> str:
    """Both ends in brackets; an unknown one is infinite."""
    low, high = found["low"], found["high"]
    return f"[{'−∞' if low is None else form.format(low)}, {'∞' if high is None else form.format(high)}]"


def peer_rows(peers: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """The report's `peers` in words: what, and what was found; without the agreements."""
    for name, peer in peers.items():
        if "device" in peer:
            yield f"{name}: runs on", f"{peer['device']} in {peer['dtype']}"
        if "first_run_seconds" in peer:
            yield f"{name}: first run of each network and size", f"{peer['first_run_seconds']:.1f} s"
        for key in (key for key in peer if key.startswith("networks_speedup")):
            ours = key.removeprefix("networks_speedup").strip("_") or "the main set"
            yield f"{name}: its networks' time over that of {ours}", _ratio(peer[key])
        if "theirs_over_ours" in peer:
            theirs, ours = (f"{peer['seconds'][whose]['value'] * 1e3:.1f} ms" for whose in ("theirs", "ours"))
            yield f"{name}: a call, and one of our denoiser beside it", f"{theirs} and {ours}"
            yield f"{name}: its time over our denoiser's", _ratio(peer["theirs_over_ours"])
        if "video_psnr_db" in peer:
            yield f"{name}: PSNR of its video against the main set's", f"{peer['video_psnr_db']:.1f} dB"
        if "note" in peer:
            yield f"{name}: note", peer["note"]


def _ratio(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.2f} {interval(found, '{:.2f}')}"
