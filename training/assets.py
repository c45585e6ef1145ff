"""Fetches the motion capture clips that train the characters: `python -m dreamactor.training.assets`.

They lie in the pybullet package (zlib licence); `dreamactor.motion.assets` downloads its wheel, takes the clips out and
checks their SHA-256. The folder is that of the other assets, under `mocap/`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dreamactor.errors import guarded
from dreamactor.motion.assets import default_folder, fetch, pinned


def mocap_folder() -> Path:
    """Folder of the clips, fetched or not."""
    return default_folder() / "mocap"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 with a sentence why on stderr."""
    parser = argparse.ArgumentParser(prog="python -m dreamactor.training.assets", description=__doc__)
    parser.add_argument("--dir", type=Path, default=default_folder(), help="assets folder (default: %(default)s)")
    folder = parser.parse_args(arguments).dir
    return guarded(lambda: _report(folder, fetch(folder, pinned(Path(__file__).with_suffix(".json")))), "assets")


def _report(folder: Path, written: list[str]) -> None:
    print(f"{folder / 'mocap'}: {len(written)} clips fetched, the rest were there.")


if __name__ == "__main__":
    sys.exit(main())
