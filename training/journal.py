"""A run's tables, as CSV: rows wait in memory, so that no step waits for its own figures."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

Values = dict[str, float | str | Tensor]


class Journal:
    """Rows by table, written into a folder as `<table>.csv` by `flush`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, list[Values]] = {}

    def add(self, table: str, values: Values) -> None:
        """Adds a row; tensors of one number stay on their device till then."""
        self.rows.setdefault(table, []).append(values)

    def flush(self) -> dict[str, dict[str, float | str]]:
        """Writes what was added; returns the last row of each table."""
        last = {}
        for table, rows in self.rows.items():
            path = self.folder / f"{table}.csv"
            new = not path.is_file()
            plain = _plain(rows)
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(plain[0]))
                if new:
                    writer.writeheader()
                writer.writerows(plain)
            last[table] = plain[-1]
        self.rows = {}
        return last


def _plain(rows: list[Values]) -> list[dict[str, float | str]]:
    """Each tensor as its number; all of a device's are fetched at once."""
    tensors = [value for row in rows for value in row.values() if isinstance(value, Tensor)]
    groups: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.device, []).append(tensor.float())
    numbers = {device: iter(torch.stack(group).tolist()) for device, group in groups.items()}
    return [
        {name: next(numbers[value.device]) if isinstance(value, Tensor) else value for name, value in row.items()}
        for row in rows
    ]
