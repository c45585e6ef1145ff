"""A run's tables: figures that some rows have not, rows that are taken back, a full disk."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from dreamactor.errors import DreamActorError
from dreamactor.training.journal import Journal
from tests.disk import full_disk


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Of two rows, written."""
    made = Journal(tmp_path)
    for step in (0, 1):
        made.add("log", {"step": step, "loss": torch.tensor(0.5 + step)})
    assert made.flush() == {"log": {"step": 1, "loss": 1.5}}
    return made


def test_rows_need_not_have_the_same_figures(journal: Journal) -> None:
    journal.add("log", {"step": 2, "loss": 1.0, "kl": torch.tensor(0.25)})
    journal.add("log", {"step": 3, "mouth": 4.0})
    journal.flush()
    journal.add("log", {"step": 4, "loss": 3.0})
    journal.flush()
    assert rows(journal.folder) == [
        {"step": "0", "loss": "0.5", "kl": "", "mouth": ""},
        {"step": "1", "loss": "1.5", "kl": "", "mouth": ""},
        {"step": "2", "loss": "1.0", "kl": "0.25", "mouth": ""},
        {"step": "3", "loss": "", "kl": "", "mouth": "4.0"},
        {"step": "4", "loss": "3.0", "kl": "", "mouth": ""},
    ]


@pytest.mark.parametrize("torn", ["", "2", "2,", "2,0.3"])
def test_rows_from_a_step_on_are_forgotten_also_one_cut_off(journal: Journal, torn: str) -> None:
    with (journal.folder / "log.csv").open("a") as file:
        file.write(torn)
    journal.rewind("log", 1)
    journal.rewind("nothing", 1)
    journal.add("log", {"step": 1, "loss": 7.0})
    journal.flush()
    assert [row["loss"] for row in rows(journal.folder)] == ["0.5", "7.0"]
    journal.rewind("log", 0)
    assert not (journal.folder / "log.csv").exists()


def test_a_full_disk_is_told_of(journal: Journal) -> None:
    journal.add("log", {"step": 2, "loss": 1.0})
    with full_disk(20), pytest.raises(DreamActorError, match=r"log\.csv could not be written .* good state is kept"):
        journal.flush()
