"""What runs on a GPU where the FP8 kernel cannot: it has to fit there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dreamactor.kernels import reference


class Largest(TorchDispatchMode):
    """The most elements that any tensor has inside."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_scores_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows do not depend on each other, so neither does the result on how many are taken at a time."""
    segments = [torch.randn(2, 3, length, 32).bfloat16() for length in (301, 301, 301, 45, 45)]
    with Largest() as whole:
        expected = reference.fp8_attention(*segments, 0.2)
    assert whole.elements == 2 * 3 * 301 * 346
    monkeypatch.setattr(reference, "_SCORES", 2 * 3 * 346 * 40)
    with Largest() as parts:
        found = reference.fp8_attention(*segments, 0.2)
    assert parts.elements == 2 * 3 * 346 * 40
    torch.testing.assert_close(found, expected)
