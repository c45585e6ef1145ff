"""Progress of a build: the bar is on the terminal, what is printed goes where it was sent."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

BUILD = """
from dreamactor.production.console import build_progress
with build_progress() as progress:
    progress("building denoiser: tactics", 0, 18)
    progress("building denoiser: tactics", 18, 18)
    print("the plan and the table")
    progress("exporting vae_decoder", 0, 0)
"""


def on_a_terminal(stdout: int | None = None) -> tuple[str, str]:
    """What BUILD writes to its stdout, where that is a pipe, and to its terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    child = subprocess.Popen(
        [sys.executable, "-c", BUILD], stdout=theirs if stdout is None else stdout, stderr=theirs, env=environment
    )
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 4096):
            seen += part
    except OSError:  # Linux ends a terminal so
        pass
    finally:
        os.close(ours)
    printed = child.stdout.read().decode() if child.stdout else ""
    assert child.wait(timeout=60) == 0
    return printed, seen.decode()


def test_what_is_printed_reaches_a_pipe_while_the_bar_is_on_the_terminal() -> None:
    printed, seen = on_a_terminal(subprocess.PIPE)
    assert printed == "the plan and the table\n"
    assert "exporting vae_decoder" in seen
    assert "the plan" not in seen


def test_what_is_printed_is_on_the_terminal_where_that_is_stdout() -> None:
    assert "the plan and the table" in on_a_terminal()[1]


def test_a_stage_of_unknown_length_does_not_keep_the_last_ones() -> None:
    _, seen = on_a_terminal()
    after = seen.partition("exporting vae_decoder")[2]
    assert "0/?" in after
    assert "/18" not in after


def test_without_a_terminal_a_line_a_stage(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, check=True)
    assert done.stdout == "the plan and the table\n"
    assert [line.partition(" s  ")[2] for line in done.stderr.splitlines()] == [
        "building denoiser",
        "exporting vae_decoder",
    ]
