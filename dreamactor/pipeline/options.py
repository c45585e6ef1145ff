"""What a caller may choose, parsed once from JSON or the command line and passed down whole."""

from __future__ import annotations

import json
import reprlib  # shows what a stranger sent: of any length, and no text at times
from dataclasses import dataclass, fields
from typing import Any

from dreamactor.errors import InputError
from dreamactor.motion.retarget import SCALES, Scale
from dreamactor.presets import SOLVERS, Preset

MAX_STEPS = 200
MAX_PSEUDO_REFERENCES = 3
MAX_SEED = 2**63 - 1
LONGEST = 60  # characters of a value that an error shows


@dataclass(frozen=True)
class Options:
    """None means automatic: the preset's steps, solver and guidance, the reference's scale, every frame of the clip.

    `guidance_scale` 1 switches guidance off and halves the work; `scale` is face, half or full (body);
    `pseudo_references` is the number of views of the person (0 to 3) generated first, as further references.
    """

    steps: int | None = None
    guidance_scale: float | None = None
    seed: int = 0
    max_frames: int | None = None
    scale: Scale | None = None
    solver: str | None = None
    pseudo_references: int = 0

    def __post_init__(self) -> None:
        _whole("steps", self.steps, 1, MAX_STEPS)
        _whole("max_frames", self.max_frames, 2)  # at most what the caps on input say
        _whole("seed", self.seed, 0, MAX_SEED)
        _whole("pseudo_references", self.pseudo_references, 0, MAX_PSEUDO_REFERENCES)
        guidance = self.guidance_scale
        if guidance is not None and not (_is_number(guidance) and 0 <= guidance <= 100):
            raise InputError(f"Option guidance_scale must be a number from 0 to 100, not {_shown(guidance)}.")
        if self.scale is not None and self.scale not in SCALES:
            raise InputError(f"Option scale must be one of {', '.join(SCALES)}, not {_shown(self.scale)}.")
        if self.solver is not None and self.solver not in SOLVERS:
            raise InputError(f"Option solver must be one of {', '.join(SOLVERS)}, not {_shown(self.solver)}.")

    @classmethod
    def from_json(cls, text: bytes | str) -> Options:
        """Options from a JSON object; empty text means the defaults. Raises InputError saying what is wrong."""
        if not text.strip():
            return cls()
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"The options are not valid JSON: {str(error)[:200]}.") from error
        if not isinstance(values, dict):
            raise InputError(f"The options must be a JSON object, not {_shown(values)}.")
        known = [field.name for field in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise InputError(f"Unknown option {reprlib.repr(unknown)[1:-1]}; these exist: {', '.join(known)}.")
        return cls(**values)

    def to_json(self) -> str:
        """Only what differs from the defaults, as JSON."""
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default})

    def steps_for(self, preset: Preset) -> int:
        return self.steps if self.steps is not None else preset.steps

    def solver_for(self, preset: Preset) -> str:
        return self.solver or preset.solver

    def guidance_for(self, preset: Preset) -> float:
        return float(self.guidance_scale if self.guidance_scale is not None else preset.guidance_scale)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    if value is None and name in ("steps", "max_frames"):
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= (value if high is None else high):
        of = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"Option {name} must be a whole number {of}, not {_shown(value)}.")


def _shown(value: Any) -> str:
    """A value as JSON has it, which is how most callers give options; shortened."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = reprlib.repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
