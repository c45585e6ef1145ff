"""What a run of the harness is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreamactor.errors import InputError

SECTIONS = ("engine", "peers", "trace", "service", "scaling", "outside")


@dataclass(frozen=True)
class Settings:
    """None means automatic: puppet, fp32 and whatever else is built, every section, every core.

    `engines` is one set in place of a preset's, `checkpoint` what it was built from, for the PyTorch peers. No section
    is begun after `minutes`; the report notes what is left out. `rates` are requests a second of the service's open
    loops; None means shares of what it can do.
    """

    preset: str | None = None
    precisions: tuple[str, ...] | None = None
    engines: Path | None = None
    checkpoint: Path | None = None
    output: Path = Path("build/bench")
    sections: tuple[str, ...] | None = None
    quick: bool = False
    minutes: float = 13.0
    threads: int | None = None
    rates: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.sections or () if name not in SECTIONS]
        if unknown:
            raise InputError(f"There is no section {', '.join(map(repr, unknown))}; choose of {', '.join(SECTIONS)}.")
        if self.engines is not None and (self.preset is not None or self.precisions is not None):
            raise InputError("--engines names a set that has its own preset and precision: leave the two out.")
        if self.checkpoint is not None and self.engines is None:
            raise InputError("--checkpoint says what the set of --engines was built from: give both.")

    @property
    def preset_name(self) -> str:
        return self.preset or "puppet"

    @property
    def rounds(self) -> int:
        """Samples of a network beside its peers."""
        return 3 if self.quick else 6

    @property
    def each_moment(self) -> int:
        """Samples of an engine, and clips taken apart by stages, at each of a run's moments."""
        return 1 if self.quick else 3

    @property
    def clips(self) -> int:
        """Whole clips of each case."""
        return 3 if self.quick else 7

    def to_dict(self) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
