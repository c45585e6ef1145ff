"""The process that exports large networks: when the system ends it, that is a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dreamactor.errors import EngineError
from dreamactor.presets import preset
from dreamactor.production.exporting import Exporter


class Fatal(type(Path())):  # type: ignore[misc]
    """A path that ends the process it is sent to."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (1,)


def test_a_process_that_was_killed_is_said_and_the_next_can_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exporter, "_is_large", lambda self: True)
    exporter = Exporter(None, preset("tiny"))
    with pytest.raises(EngineError, match="that exported denoiser was ended from outside, most likely for want of mem"):
        exporter.export("denoiser", Fatal(tmp_path / "denoiser.onnx"))
    assert exporter._process is None
