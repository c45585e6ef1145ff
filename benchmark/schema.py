"""The report's format: one JSON object, its keys and what is in them."""

from __future__ import annotations

import math
from typing import Any

SCHEMA = "dreamactor.benchmark/4"
SUMMARY = ("pipeline_speedup_over_eager", "pipeline_speedup_over_compile", "served_overhead", "memory_exponent")
KEYS = {
    "schema": "name and version of this format",
    "settings": "what was asked for",
    "environment": "machine and software",
    "conditions": "load, clocks and temperatures at the start, between the sections and at the end",
    "timings": "name -> percentiles with intervals, raw samples, the yardstick beside each, its block (one a moment "
    "of the run); seconds",
    "trace": "one clip, stage by stage and call by call",
    "profiles": "network -> seconds by part of the network and by operator",
    "limits": "measured peaks, the clock (engine: whole runs, device: the GPU alone), network -> operations, bytes, "
    "share of the peak",
    "peers": "agreement and speed of what one would use instead",
    "service": "loads on the server, its own statistics, the plain gRPC server beside it",
    "scaling": "curves with fitted exponents, peak memory and its fit, the longest clip that fits, memory against "
    "references, steps, pixels and the server's callers",
    "not_run": "section -> why it was not run",
    "failed": "section -> the error that ended it; empty in a sound report",
    "summary": f"{', '.join(SUMMARY)}: value, low and high each, or null where not run; the speedups of another "
    "precision under their names and the precision's, such as pipeline_speedup_over_eager_int8",
}
_PYTORCH = ("eager", "compile")


def is_ours(timing: str) -> bool:
    """Whether a timing of this name measures this project and not PyTorch, here or on a GPU ("eager-cuda")."""
    return timing.rpartition("/")[2].partition("-")[0] not in _PYTORCH


def finite(value: Any) -> Any:
    """The same with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def empty() -> dict[str, Any]:
    """A report in which nothing was run yet."""
    report: dict[str, Any] = {key: {} for key in KEYS}
    report["schema"] = SCHEMA
    report["conditions"] = []
    report["summary"] = dict.fromkeys(SUMMARY)
    return report
