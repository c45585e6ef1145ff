"""compute-sanitizer over small ragged cases, one process for each kernel, all at once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

TOOL = "compute-sanitizer"
FOUND_ERRORS = 9  # exit status


def tool() -> str | None:
    """Where compute-sanitizer is: on PATH or beside the CUDA toolkit."""
    folders = [
        os.environ.get("PATH", ""),
        f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin",
        "/usr/local/cuda/bin",
    ]
    return shutil.which(TOOL, path=os.pathsep.join(folders))


def sanitize(kernels: Sequence[str], command: Sequence[str], seconds: float) -> list[dict[str, Any]]:
    """A row for each kernel: `command` and `sanitize:KERNEL`, under memcheck, for at most so long."""
    found = tool()
    if found is None:
        return [
            {"kernel": kernel, "passed": None, "failure": f"{TOOL} is neither on PATH nor in /usr/local/cuda/bin"}
            for kernel in kernels
        ]
    with ThreadPoolExecutor(len(kernels)) as pool:
        return list(pool.map(partial(_memcheck, found, list(command), seconds), kernels))


def _memcheck(found: str, command: list[str], seconds: float, kernel: str) -> dict[str, Any]:
    options = ["--tool", "memcheck", "--error-exitcode", str(FOUND_ERRORS)]
    # the allocator's large blocks would hide what lies beyond a tensor
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        result = subprocess.run(
            [found, *options, *command, f"sanitize:{kernel}"],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return {"kernel": kernel, "passed": None, "failure": f"not done in {seconds:.0f} s"}
    text = result.stdout + result.stderr
    summary = re.findall(r"ERROR SUMMARY: .*", text)
    row: dict[str, Any] = {"kernel": kernel, "passed": result.returncode == 0, "summary": (summary or [""])[-1]}
    if not row["passed"]:
        errors = [line for line in text.splitlines() if line.startswith("========= ")]
        row["failure"] = "\n".join(errors[:6]) or text[-600:]
    return row
