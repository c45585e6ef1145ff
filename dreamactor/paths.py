"""Where things lie by default: all relative to where the command runs, except what ships with the source."""

from __future__ import annotations

from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
ENGINES = Path("build/engines")


def checkpoint(preset: str) -> Path | None:
    """The checkpoint that ships for `preset`, or None where there is none."""
    folder = SOURCE / "checkpoints" / preset
    return folder if (folder / "config.json").exists() else None


def engine_set(preset: str, precision: str, target: str) -> Path:
    """Default folder of an engine set."""
    return ENGINES / f"{preset}-{precision}-{target}"
