"""The GPU check's cases on the CPU: the kernels' interpreter."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from dreamactor.benchmark import gpu_attention, gpu_cases, gpu_rows
from dreamactor.kernels import dispatch, tiles
from tests.benchmark.gpu_testing import TILES
from tests.kernels.conftest import _copies, _seeded, interpreted

__all__ = ["_copies", "_seeded", "interpreted"]


@pytest.fixture
def on_cpu(interpreted: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """The cases on the CPU: interpreted kernels, this table's tiles instead of a device's."""
    users = {gpu_attention: ("face", "fp8", "sparse", "two_segment"), gpu_rows: ("modulate", "rotary")}
    for module, names in users.items():
        for name in names:
            monkeypatch.setattr(module, name, interpreted(name))
    monkeypatch.setattr(gpu_cases, "DEVICE", "cpu")
    monkeypatch.setattr(dispatch, "architecture", lambda device: 90)
    monkeypatch.setattr(dispatch, "capability", lambda device: 90)
    monkeypatch.setattr(tiles, "tiles", lambda kernel, arch, size: TILES[kernel])
