"""The kernels twice: compiled from their ordinary modules, interpreted from copies loaded under the interpreter."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch

from tests.kernels.kernel_testing import corrected

PACKAGE = "dreamactor.kernels."
KERNELS = ("softmax", "two_segment", "face", "rotary", "modulate", "fp8", "sparse")


@pytest.fixture(scope="session")
def _copies() -> dict[str, ModuleType]:
    import triton

    saved = {name: sys.modules.pop(PACKAGE + name, None) for name in KERNELS}
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        copies = {name: importlib.import_module(PACKAGE + name) for name in KERNELS}
    package = sys.modules[PACKAGE.rstrip(".")]
    for name, module in saved.items():
        sys.modules.pop(PACKAGE + name)
        delattr(package, name)  # `from dreamactor.kernels import NAME` looks here first
        if module is not None:
            sys.modules[PACKAGE + name] = module
            setattr(package, name, module)
    return copies


@pytest.fixture
def interpreted(_copies: dict[str, ModuleType]) -> Iterator[Callable[[str], ModuleType]]:
    """A kernel module by name, its kernels run by the interpreter on the CPU, bf16 and FP8 rounded as the GPU does."""
    with corrected():
        yield _copies.__getitem__


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory is NaN, so that what a kernel leaves out shows."""
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: torch.full(shape, float("nan"), **options))
