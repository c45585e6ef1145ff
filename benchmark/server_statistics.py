"""Triton's own statistics over a load: what each model waited, computed and copied, as the server saw it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PHASES = ("queue", "compute_input", "compute_infer", "compute_output")
Snapshot = Mapping[str, Mapping[str, tuple[int, int]]]


@dataclass(frozen=True)
class ModelShare:
    """Of one served model over a load: executions, and seconds an execution spent in each phase."""

    model: str
    executions: int
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model, "executions": self.executions, "seconds": dict(self.seconds)}


def snapshot(http_address: str) -> Snapshot:
    """Counts and nanoseconds of every model and phase up to now, from HOST:PORT of the server's HTTP door."""
    with urllib.request.urlopen(f"http://{http_address}/v2/models/stats", timeout=10) as answer:
        models = json.loads(answer.read())["model_stats"]
    return {model["name"]: {key: _phase(model, key) for key in (*_PHASES, "success")} for model in models}


def shares(before: Snapshot, after: Snapshot) -> list[ModelShare]:
    """What happened between two snapshots, models that did nothing left out."""
    rows = []
    for model, phases in after.items():
        earlier = before.get(model, {})
        count = phases["success"][0] - earlier.get("success", (0, 0))[0]
        count = count or phases["compute_infer"][0] - earlier.get("compute_infer", (0, 0))[0]
        if count > 0:
            spent = {
                key: (nanoseconds - earlier.get(key, (0, 0))[1]) / 1e9 / count
                for key, (_, nanoseconds) in phases.items()
            }
            rows.append(ModelShare(model, count, spent))
    return rows


def _phase(model: Mapping[str, Any], key: str) -> tuple[int, int]:
    found = model.get("inference_stats", {}).get(key, {})
    return int(found.get("count", 0)), int(found.get("ns", 0))
