"""A run's tables, as CSV. Rows are kept in memory first, so that no step waits for its figures."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from dreamactor.errors import DreamActorError

Values = dict[str, float | str | Tensor]
Plain = dict[str, float | str]


class Journal:
    """Rows by table, written into a folder as `<table>.csv` by `flush`. A row may have figures that others have not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, list[Values]] = {}

    def add(self, table: str, values: Values) -> None:
        """Adds a row; tensors, of one number each, stay on their device until `flush`."""
        self.rows.setdefault(table, []).append(values)

    def flush(self) -> dict[str, Plain]:
        """Writes what was added; returns the last row of each table. Raises DreamActorError when the disk is full."""
        last = {}
        for table, rows in self.rows.items():
            plain = _plain(rows)
            _append(self._path(table), plain)
            last[table] = plain[-1]
        self.rows = {}
        return last

    def rewind(self, table: str, step: int) -> None:
        """Deletes a table's rows from a step on, and one that a full disk cut off."""
        path = self._path(table)
        rows = [row for row in _read(path) if None not in row.values() and int(row["step"]) < step]
        path.unlink(missing_ok=True)
        if rows:
            _append(path, rows)

    def _path(self, table: str) -> Path:
        return self.folder / f"{table}.csv"


def _append(path: Path, rows: list[Plain]) -> None:
    """Adds rows to a table; where they have figures that it lacks, it is written anew."""
    known = _columns(path)
    columns = list(dict.fromkeys([*known, *(name for row in rows for name in row)]))
    new = columns != known
    before = _read(path) if new else []
    try:
        with path.open("w" if new else "a", newline="") as file:
            writer = csv.DictWriter(file, columns)
            if new:
                writer.writeheader()
                writer.writerows(before)
            writer.writerows(rows)
    except OSError as error:
        raise DreamActorError(
            f"{path} could not be written ({error.strerror}); the last good state is kept. "
            "Make room and start the same command again: it goes on from there."
        ) from error


def _columns(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def _read(path: Path) -> list[Plain]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _plain(rows: list[Values]) -> list[Plain]:
    """The rows with numbers for tensors; all tensors of a device are fetched at once."""
    tensors = [value for row in rows for value in row.values() if isinstance(value, Tensor)]
    groups: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.device, []).append(tensor.float())
    numbers = {device: iter(torch.stack(group).tolist()) for device, group in groups.items()}
    return [
        {name: next(numbers[value.device]) if isinstance(value, Tensor) else value for name, value in row.items()}
        for row in rows
    ]
