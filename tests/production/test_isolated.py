"""A crash in a process of its own is an error like others."""

from __future__ import annotations

import ctypes
import os
import sys

import pytest

from dreamactor.errors import EngineError
from dreamactor.production.isolated import isolated


def answers(number: int) -> dict[str, int]:
    print("a warning", file=sys.stderr)
    return {"number": number, "process": os.getpid()}


def crashes(how: str) -> dict[str, int]:
    os.write(2, b"[TRT] an illegal memory access\n")  # as a library does
    if how == "segfault":
        ctypes.string_at(0)
    if how == "raise":
        raise RuntimeError("nobody caught this")
    os._exit(3)


def test_work_is_done_in_another_process(capsys: pytest.CaptureFixture[str]) -> None:
    found = isolated(answers, 7)
    assert found["number"] == 7
    assert found["process"] != os.getpid()
    assert capsys.readouterr().err == "a warning\n"


@pytest.mark.parametrize(
    ("how", "ended", "last"),
    [
        ("segfault", "was ended by SIGSEGV: ", "[TRT] an illegal memory access"),
        ("exit", "was ended with code 3: ", "[TRT] an illegal memory access"),
        ("raise", "was ended with code 1: ", "RuntimeError: nobody caught this"),
    ],
)
def test_a_crash_is_an_error_of_that_work_alone(how: str, ended: str, last: str) -> None:
    with pytest.raises(EngineError) as raised:
        isolated(crashes, how)
    assert f"its process {ended}" in str(raised.value)
    assert last in str(raised.value)


def refuses() -> dict[str, int]:
    raise EngineError("No, because of this.")


def test_what_work_refuses_is_raised_here() -> None:
    with pytest.raises(EngineError, match=r"^No, because of this\.$"):
        isolated(refuses)
