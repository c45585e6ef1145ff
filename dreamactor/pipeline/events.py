"""What a caller hears while a clip is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

PREPARE_SHARE, DENOISE_SHARE = 0.15, 0.8  # of the whole, roughly; the rest is decoding


@dataclass(frozen=True)
class Event:
    """One sign of progress.

    `stage` is prepare, wait (for other clips, on a server), references, denoise or done; segments and steps count from
    1; `fraction` runs from 0 to 1 over the whole job; `message` is for the person, mostly empty.
    """

    stage: str
    segment: int = 0
    segments: int = 0
    step: int = 0
    steps: int = 0
    fraction: float = 0.0
    message: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes | str) -> Event:
        return cls(**json.loads(text))


OnProgress = Callable[[Event], None]
"""Called with every event; raising `Cancelled` from it stops the work."""


def ignore(event: Event) -> None:
    """The listener of those who do not listen."""


def denoise_fraction(done: int, total: int) -> float:
    """Fraction of the whole job after `done` of `total` denoising steps."""
    return PREPARE_SHARE + DENOISE_SHARE * done / max(total, 1)
