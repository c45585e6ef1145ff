"""Why a job ended early, as it travels between the served stages and to the caller."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from dreamactor.errors import DreamActorError


class Busy(DreamActorError):
    """The server has as many clips waiting as it takes."""


@dataclass(frozen=True)
class Problem:
    """Why a job ended early: `status` is INVALID_ARGUMENT, CANCELLED, RESOURCE_EXHAUSTED (busy) or INTERNAL; `message`
    is for the caller."""

    status: str
    message: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Problem | None:
        """None for no bytes."""
        return cls(**json.loads(text)) if text else None
