"""Content-addressed store: what was made once from the same things is found again, whoever asks and at the same time.

An entry is a folder named by the hash of its key, written beside its place and renamed into it: it is there whole or
not at all. No torch, no onnx: a hit costs a few file reads.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamactor.engines import trust
from dreamactor.errors import EngineError

ENTRY = "entry.json"
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Entry:
    """One thing in the store. `key` is what it was made from, `facts` what its maker recorded, `seconds` how long;
    `sizes` in bytes and `hashes` (SHA-256) are the files' as they were made."""

    folder: Path
    kind: str
    key: Mapping[str, Any]
    facts: Mapping[str, Any]
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    hashes: tuple[str, ...]
    seconds: float

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self.folder / name for name in self.files)

    @property
    def bytes(self) -> int:
        return sum(self.sizes)

    @property
    def used(self) -> float:
        """When last, in seconds since 1970."""
        return (self.folder / ENTRY).stat().st_mtime

    @property
    def sha256(self) -> str:
        """`trust.sha256` of all its files."""
        return trust.together(self.hashes)


class Store:
    """`root/<kind>/<hash>/`: files and an `entry.json`."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._sound: set[Path] = set()  # entries whose files were read and found as they were made

    def find(self, kind: str, key: Mapping[str, Any]) -> Entry | None:
        """The entry made from `key`, its files' sizes right, or None; finding it marks it as used."""
        entry = _read(self._folder(kind, key))
        if entry is not None:
            with contextlib.suppress(OSError):
                os.utime(entry.folder / ENTRY)
        return entry

    def get(self, kind: str, key: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> tuple[Entry, bool]:
        """The entry made from `key` and whether it was there already.

        Where it is not, `make(folder)` writes its files into an empty folder and returns facts to record. Two callers
        with the same key wait for each other, and the second finds what the first made. One whose files are not as they
        were made is made again. When `make` fails nothing is left behind; a full disk becomes an EngineError.
        """
        found = self._find_sound(kind, key)
        if found is not None:
            return found, True
        folder = self._folder(kind, key)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder.with_name(f".{folder.name}.lock")) as alone:
                if alone:
                    _remove(_partials(folder))  # a killed build's
                found = self._find_sound(kind, key)
                return (found, True) if found is not None else (self._make(kind, key, folder, make), False)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise EngineError(
                    f"The disk is full where {error.filename or self.root} is written: free some space, give another "
                    "store, or for temporary files another TMPDIR."
                ) from error
            raise EngineError(f"{error.filename or self.root} cannot be written: {error.strerror or error}.") from error

    def entries(self) -> Iterator[Entry]:
        """Everything whole in the store, the most recently used first."""
        folders = [path for path in self.root.glob("*/*") if path.is_dir() and not path.name.startswith(".")]
        found = [entry for entry in map(_read, folders) if entry is not None]
        yield from sorted(found, key=lambda entry: -entry.used)

    def prune(self, keep: int = 0, older_than_days: float = 0.0) -> list[Entry]:
        """Removes all but the `keep` most recently used entries that are older than so many days, and what a killed
        build left; returns what was removed."""
        limit = time.time() - older_than_days * 86400
        removed = []
        for entry in list(self.entries())[keep:]:
            if entry.used <= limit:
                shutil.rmtree(entry.folder, ignore_errors=True)
                removed.append(entry)
        _remove(self.left())
        for lock in self.root.glob("*/.*.lock"):
            with contextlib.suppress(OSError), _locked(lock, wait=False) as alone:
                if alone and not _entry(lock).exists():
                    lock.unlink()
        return removed

    def left(self) -> list[Path]:
        """What killed builds left: folders that nobody is making any more."""
        found: list[Path] = []
        for lock in self.root.glob("*/.*.lock"):
            with contextlib.suppress(OSError), _locked(lock, wait=False) as alone:  # who cannot write there only looks
                found += _partials(_entry(lock)) if alone else []
        return found

    def _find_sound(self, kind: str, key: Mapping[str, Any]) -> Entry | None:
        """As `find`, and every file has the hash it was made with; each entry is read once."""
        entry = self.find(kind, key)
        if entry is not None and entry.folder not in self._sound:
            try:
                if tuple(map(trust.sha256, entry.paths)) != entry.hashes:
                    return None
            except OSError:  # unreadable is as bad as changed
                return None
            self._sound.add(entry.folder)
        return entry

    def _folder(self, kind: str, key: Mapping[str, Any]) -> Path:
        text = json.dumps(key, sort_keys=True, separators=(",", ":"))
        return self.root / kind / hashlib.sha256(text.encode()).hexdigest()[:24]

    def _make(
        self, kind: str, key: Mapping[str, Any], folder: Path, make: Callable[[Path], Mapping[str, Any]]
    ) -> Entry:
        partial = folder.with_name(f"{_PARTIAL}{folder.name}-{uuid.uuid4().hex[:8]}")
        partial.mkdir()
        try:
            started = time.monotonic()
            facts = dict(make(partial))
            files = sorted(path.name for path in partial.iterdir())
            description = {
                "kind": kind, "key": dict(key), "facts": facts, "files": files, "created": time.time(),
                "seconds": time.monotonic() - started, "sizes": [(partial / name).stat().st_size for name in files],
                "hashes": [trust.sha256(partial / name) for name in files],
            }  # fmt: skip
            (partial / ENTRY).write_text(json.dumps(description, indent=1))
            if folder.exists():  # a damaged entry that `find` would not take
                shutil.rmtree(folder)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        entry = _read(folder)
        if entry is None:
            raise EngineError(f"The store's new entry {folder} vanished: is something else deleting it?")
        self._sound.add(folder)
        return entry


def _read(folder: Path) -> Entry | None:
    """The entry in `folder`, or None when there is none or a file of it is missing or cut."""
    try:
        values = json.loads((folder / ENTRY).read_text())
        whole = all(
            (folder / name).stat().st_size == size for name, size in zip(values["files"], values["sizes"], strict=True)
        )
        if not whole:
            return None
        return Entry(
            folder, values["kind"], values["key"], values["facts"], tuple(values["files"]), tuple(values["sizes"]),
            tuple(values.get("hashes", ())), float(values["seconds"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """One holder at a time; the system lets go of the lock when its holder dies. Yields whether it is held: it is not
    where somebody else holds it and `wait` is off, nor on Windows, where the rename at the end keeps entries whole."""
    with contextlib.ExitStack() as holding:
        held = False
        with contextlib.suppress(ImportError, BlockingIOError):
            import fcntl

            while not held:
                file = holding.enter_context(path.open("a"))
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(FileNotFoundError):  # `prune` removed it meanwhile: another file is the lock
                    held = os.path.samestat(os.fstat(file.fileno()), path.stat())
        yield held


def _entry(lock: Path) -> Path:
    """The folder of the entry that a lock is of."""
    return lock.with_name(lock.name.removeprefix(".").removesuffix(".lock"))


def _partials(entry: Path) -> list[Path]:
    return list(entry.parent.glob(f"{_PARTIAL}{entry.name}-*"))


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
