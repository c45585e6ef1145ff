"""Engine sets written whole or not at all, one writer at a time; what a killed one left is tidied up."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import dreamactor
from dreamactor.engines.manifest import FILE_NAME, FileRecord, Manifest, NetworkRecord
from dreamactor.engines.trust import sha256
from dreamactor.errors import EngineError
from dreamactor.files import locked
from dreamactor.interfaces import MAX_REFERENCES
from dreamactor.presets import Preset

_BESIDE = re.compile(r"\.(?P<name>.+)\.(?P<kind>new|old)\.\d+-[0-9a-f]{8}")


@dataclass(frozen=True)
class EngineFiles:
    """What `write_set` makes one record from: `record` without its files, and where these (main file first) and the
    example lie now."""

    record: NetworkRecord
    paths: tuple[Path, ...]
    example: Path | None = None


def check_destination(directory: Path | str) -> Path:
    """The absolute path of a folder that a set may be written to; raises EngineError where it holds something else."""
    directory = Path(directory).resolve()
    with locked(directory.parent):
        if directory.exists() and not _is_set(directory) and not (directory.is_dir() and not any(directory.iterdir())):
            raise EngineError(f"{directory} exists and is not an engine set: give another folder.")
    return directory


def require_writable(directory: Path) -> None:
    """Raises EngineError where no folder can be made in the place of `directory`, before the minutes of work."""
    parent = next(folder for folder in directory.parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise EngineError(f"The engine set cannot be written to {directory}: {parent} is not a folder one can write.")


def write_set(
    directory: Path | str,
    preset: Preset,
    precision: str,
    target: str,
    engines: Iterable[EngineFiles],
    references: int = MAX_REFERENCES,
    complete: Callable[[Path, Manifest], None] = lambda folder, manifest: None,
    is_current: Callable[[], bool] = lambda: False,
) -> None:
    """Makes (or replaces) the set in `directory` from files, with their hashes; a failure leaves what was there.

    `references` is how many the denoiser takes at most, pseudo-references among them. `complete` may verify the set and
    add to it where it is made, before it takes its place; it takes it unless what another writer put there meanwhile
    `is_current`: who is reading that set keeps its files. What a killed writer left beside it is tidied up.
    """
    directory, making = check_destination(directory), ExitStack()
    fresh = _beside(directory, "new")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with locked(directory.parent):
            tidy(directory.parent)
            fresh.mkdir()
            making.enter_context(locked(fresh))
        records = {item.record.name: _place(fresh, item) for item in engines}
        manifest = Manifest(
            preset, precision, target, records, datetime.now(UTC).isoformat(timespec="seconds"),
            f"dreamactor {dreamactor.__version__}", references,
        )  # fmt: skip
        (fresh / FILE_NAME).write_text(manifest.to_json())
        complete(fresh, manifest)
        with locked(directory.parent):
            if not is_current():
                _swap(fresh, directory)
    except OSError as error:
        raise EngineError(f"The engine set cannot be written to {directory}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        making.close()


def tidy(parent: Path) -> None:
    """Of the sets in `parent`, whose lock the caller holds, removes what killed writers left, and brings back a set
    that one had moved away: who lives holds the lock of what he makes, and moves sets under the caller's."""
    for path in parent.iterdir():
        match = _BESIDE.fullmatch(path.name)
        if match is None:
            continue
        place = parent / match["name"]
        if match["kind"] == "old" and not place.exists():
            path.rename(place)
            continue
        with locked(path, wait=False) as left:
            if left:
                shutil.rmtree(path, ignore_errors=True)


def _place(folder: Path, item: EngineFiles) -> NetworkRecord:
    files = tuple(_copied(folder, path) for path in item.paths)
    return replace(item.record, files=files, example=_copied(folder, item.example) if item.example else None)


def _copied(folder: Path, path: Path) -> FileRecord:
    copy = folder / path.name
    if copy.exists():
        raise EngineError(f"Two files of the set are called {path.name}.")
    shutil.copyfile(path, copy)  # not a hard link: onnx refuses external data that has several names
    return FileRecord(path.name, sha256(copy), copy.stat().st_size)


def _is_set(directory: Path) -> bool:
    """Whether the folder's manifest is that of an engine set, of this format or another."""
    try:
        values = json.loads((directory / FILE_NAME).read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"format", "preset", "networks"} <= set(values)


def _beside(directory: Path, kind: str) -> Path:
    """Where this process makes the "new" set that belongs in `directory`, or keeps the "old" one meanwhile."""
    return directory.with_name(f".{directory.name}.{kind}.{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _swap(fresh: Path, directory: Path) -> None:
    """Puts `fresh` where `directory` is; on POSIX two renames, so a reader sees the old set, the new one or none."""
    if not directory.exists():
        fresh.rename(directory)
        return
    old = _beside(directory, "old")
    try:
        directory.rename(old)
        fresh.rename(directory)
    finally:
        if directory.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:  # failed or interrupted between the two
            old.rename(directory)
