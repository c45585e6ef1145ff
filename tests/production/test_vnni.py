"""INT8 on the CPU is of the processor that it is built on: signed where that is right, and then the set says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamactor.engines.processor import VNNI
from dreamactor.production import keys, make
from dreamactor.production.request import make_request
from dreamactor.production.stages import Stages


def stages(tmp_path: Path, precision: str, target: str) -> Stages:
    request = make_request("tiny", precision, target, output=tmp_path / "set", store=tmp_path / "store")
    return Stages(request, lambda what, done, total: None)


@pytest.mark.parametrize(("there", "expected"), [(True, VNNI), (False, "any")])
def test_a_set_of_signed_weights_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, expected: str
) -> None:
    monkeypatch.setattr(keys, "has_vnni", lambda: there)
    made = stages(tmp_path, "int8", "cpu")
    assert made.keys.recipe.unsigned is not there
    for quantized, architecture in ((3, expected), (0, "any")):
        entry, _ = made.store.get("precision", {"layers": quantized}, lambda _, n=quantized: {"quantized_layers": n})
        assert make._architecture(made, entry) == architecture


def test_a_set_of_another_processor_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, list[object]] = {}
    for there in (True, False):
        monkeypatch.setattr(keys, "has_vnni", lambda there=there: there)
        for precision, target in (("int8", "cpu"), ("int8", "sm89"), ("fp32", "cpu")):
            key = stages(tmp_path, precision, target).keys.precision("denoiser")
            found.setdefault(f"{precision} {target}", []).append(key)
    assert {name: a == b for name, (a, b) in found.items()} == {
        "int8 cpu": False, "int8 sm89": True, "fp32 cpu": True
    }  # fmt: skip
