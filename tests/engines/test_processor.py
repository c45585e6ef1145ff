"""Signed 8-bit weights are for processors with VNNI: which these are, and what is refused on the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dreamactor.engines import open_engines, trust
from dreamactor.engines.processor import VNNI, has_vnni
from dreamactor.errors import EngineError

from .conftest import record


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni pku\nbugs\t\t: x\n", True),
        ("flags\t\t: avx2 avx_vnni\n", True),
        ("flags\t\t: avx2 amx_int8\n", True),
        ("flags\t\t: avx2\nvmx flags\t: avx512_vnni\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp\n", False),  # ARM: unsigned ones are as fast there
        ("", False),
    ],
)
def test_a_processor_has_vnni_if_its_system_says_so(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert has_vnni(tmp_path / "cpuinfo") is expected
    assert not has_vnni(tmp_path / "absent")


@pytest.mark.parametrize("there", [True, False])
def test_signed_weights_are_refused_where_their_products_overflow(
    make_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(trust, "has_vnni", lambda: there)
    folder = make_set(architecture=VNNI)
    assert trust.runs_on(record("denoiser", architecture=VNNI), None) is there
    if there:
        open_engines(folder, threads=1).close()
    else:
        with pytest.raises(EngineError, match=r"signed 8-bit weights, .* VNNI .*: build the set again here"):
            open_engines(folder)
