"""Triton's own statistics over a load: how long each model waited, computed and did neither, as the server saw it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dreamactor.errors import DreamActorError
from dreamactor.serving.launcher import LOCAL
from dreamactor.serving.wire import ENSEMBLE

_PHASES = ("queue", "compute_input", "compute_infer", "compute_output")
_MOMENT, _TRIES = 0.05, 20  # seconds between two snapshots that should be alike, and how many are taken
Snapshot = Mapping[str, Mapping[str, tuple[int, int]]]
Look = Callable[[], Snapshot]


@dataclass(frozen=True)
class ModelShare:
    """Of one served model over a load: requests answered, and the mean seconds of one in each phase.

    "success" is the whole request, "overhead" the part that is neither queue nor compute. The ensemble has only its own
    "queue" and "success": its compute is a sum over its steps, without what these call in turn.
    """

    model: str
    executions: int
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def snapshot(http_address: str) -> Snapshot:
    """Counts and nanoseconds of every model and phase up to now, from HOST:PORT of the server's HTTP endpoint.

    Raises DreamActorError where no server answers.
    """
    try:
        with LOCAL.open(f"http://{http_address}/v2/models/stats", timeout=10) as answer:
            models = json.loads(answer.read())["model_stats"]
    except OSError as error:
        raise DreamActorError(f"The server at {http_address} does not give its statistics: {error}.") from error
    return {model["name"]: {key: _phase(model, key) for key in (*_PHASES, "success")} for model in models}


def settled(look: Look) -> Snapshot:
    """A snapshot that the next one confirms: Triton counts a request a moment after it has answered it.

    After several tries it is the last one, confirmed or not.
    """
    found = look()
    for _ in range(_TRIES):
        time.sleep(_MOMENT)
        before, found = found, look()
        if found == before:
            break
    return found


def shares(before: Snapshot, after: Snapshot) -> list[ModelShare]:
    """What happened between two snapshots, models that did nothing left out."""
    rows = []
    for model, phases in after.items():
        earlier = before.get(model, {})
        count = phases["success"][0] - earlier.get("success", (0, 0))[0]
        if count > 0:
            spent = {
                key: (nanoseconds - earlier.get(key, (0, 0))[1]) / 1e9 / count
                for key, (_, nanoseconds) in phases.items()
            }
            rows.append(ModelShare(model, count, _of_a_request(model, spent)))
    return rows


def _of_a_request(model: str, spent: Mapping[str, float]) -> dict[str, float]:
    if model == ENSEMBLE:
        return {key: spent[key] for key in ("queue", "success")}
    return {**spent, "overhead": spent["success"] - sum(spent[key] for key in _PHASES)}


def _phase(model: Mapping[str, Any], key: str) -> tuple[int, int]:
    found = model.get("inference_stats", {}).get(key, {})
    return int(found.get("count", 0)), int(found.get("ns", 0))
