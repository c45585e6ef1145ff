"""A store of its own for each test, with the tiny networks exported already."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def tiny_store(tmp_path: Path, tiny_onnx: dict[str, Path]) -> Path:
    """A store that holds the FP32 ONNX of every tiny network and nothing else."""
    for path in tiny_onnx.values():
        shutil.copytree(path.parent, tmp_path / "store" / "onnx" / path.parent.name)
    return tmp_path / "store"
