"""Where things lie by default: all relative to where the command runs, except what ships with the package.

In a checkout the rooms (`kernels/`, `export/`, ...) and `checkpoints/` lie beside the package, in an installed wheel in
it: the import system finds the rooms in both, this module the files.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None
ENGINES = Path("build/engines")
STORE = ENGINES / "store"  # what builds have made, kept for the next


def shipped(pattern: str) -> list[Path]:
    """Files that ship, by their path in a checkout: "kernels/*.py", "checkpoints/puppet/config.json". Sorted."""
    root = CHECKOUT or (PACKAGE.parent if pattern.startswith(f"{PACKAGE.name}/") else PACKAGE)
    return sorted(root.glob(pattern))


def assets() -> Path:
    """Default folder of landmark models and media: `.assets` of the checkout, else of where the command runs."""
    return (CHECKOUT or Path()) / ".assets"


def checkpoint(preset: str) -> Path | None:
    """The checkpoint that ships for `preset`, or None where there is none."""
    return next((found.parent for found in shipped(f"checkpoints/{preset}/config.json")), None)


def engine_set(preset: str, precision: str, target: str) -> Path:
    """Default folder of an engine set."""
    return ENGINES / f"{preset}-{precision}-{target}"
