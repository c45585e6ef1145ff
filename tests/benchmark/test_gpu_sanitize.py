"""What compute-sanitizer's exit status means, and who ends with it; by a stand-in that runs the command it is given."""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path

import pytest

from dreamactor.benchmark import gpu_sanitize
from dreamactor.benchmark.gpu_sanitize import FOUND, NOTHING, RAN, WRONG


@pytest.fixture(autouse=True)
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves its options in a file, and is no more than a parent of what it runs, as the real one."""
    script = tmp_path / gpu_sanitize.TOOL
    script.write_text(f'#!/bin/sh\necho "$1 $2 $3 $4" >> {tmp_path}/options\nshift 4\n"$@" &\nwait $!\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


@pytest.mark.parametrize(
    ("code", "passed", "words"),
    [
        (0, True, ""), (FOUND, False, "Invalid __global__ read"), (WRONG, False, "a wrong result under memcheck"),
        (NOTHING, None, "no tile for this device"), (3, None, "ended with 3"), (1, None, "No module named"),
    ],
)  # fmt: skip
def test_only_the_tools_own_status_and_a_wrong_result_are_failures(
    code: int, passed: bool | None, words: str, tmp_path: Path
) -> None:
    text = f"print('{RAN} x 128x64\\n========= Invalid __global__ read\\nNo module named'); raise SystemExit({code})"
    (row,) = gpu_sanitize.sanitize(["some"], [sys.executable, "-c", text], 60)
    assert row["passed"] is passed
    assert words in row.get("failure", "")
    assert ("failure" in row) is bool(code)
    assert row["ran"] == ["x 128x64"]
    options = (tmp_path / "options").read_text().split()
    assert "--report-api-errors=no" in options
    assert f"--error-exitcode={FOUND}" in options


def test_what_the_tool_runs_ends_with_it(tmp_path: Path) -> None:
    held = tmp_path / "held"
    text = f"import fcntl, time; file = open({str(held)!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX); time.sleep(600)"
    (row,) = gpu_sanitize.sanitize(["some"], [sys.executable, "-c", text], 3)
    assert row["passed"] is None
    assert "not done in 3 s" in row["failure"]
    with held.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while another lives that holds it
