"""compute-sanitizer over small ragged cases, one process for each kernel, all at once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from dreamactor.benchmark import gpu_report
from dreamactor.benchmark.gpu_report import Row

TOOL = "compute-sanitizer"
FOUND, WRONG, NOTHING = 9, 4, 5  # exit statuses: the tool's own; a wrong result; no tile for this device
OPTIONS = (
    "--tool=memcheck",
    "--report-api-errors=no",  # libraries ask for what may not be there
    "--launch-timeout=0",  # torch takes long to reach the device
    f"--error-exitcode={FOUND}",
)
RAN = "memcheck ran"


def check(kernel: str, until: float) -> int:
    """The small cases of `kernel`, one tile of each kind, against float64; none is begun after `until`.

    Returns the exit status: 0, WRONG or NOTHING. What ran is printed for `sanitize` to read.
    """
    from dreamactor.benchmark import gpu_measure, gpu_plan

    ran = False
    for make in gpu_plan.RAGGED[kernel]:
        case = make()
        kinds = {tile.specialized: tile for tile in reversed(case.candidates())}  # the first of each
        for tile in kinds.values():
            if ran and time.monotonic() > until:
                return 0
            entry: Row = {"kernel": kernel, "label": case.label, "tiles": {tile.name: gpu_measure.check(case, tile)}}
            if gpu_report.passed(entry) is False:
                print(gpu_report.line(entry), flush=True)
                return WRONG
            print(f"{RAN} {case.label} {tile.name}", flush=True)
            ran = True
    return 0 if ran else NOTHING


def tool() -> str | None:
    """Where compute-sanitizer is: on PATH or beside the CUDA toolkit."""
    folders = [
        os.environ.get("PATH", ""),
        f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin",
        "/usr/local/cuda/bin",
    ]
    return shutil.which(TOOL, path=os.pathsep.join(folders))


def sanitize(kernels: Sequence[str], command: Sequence[str], seconds: float) -> list[Row]:
    """A row for each kernel: `command` and `sanitize:KERNEL`, under memcheck, for at most `seconds`.

    `passed` is False where the tool found errors or the result was wrong, None where either is not known.
    """
    found = tool()
    if found is None:
        return [
            {"kernel": kernel, "passed": None, "failure": f"{TOOL} is neither on PATH nor in /usr/local/cuda/bin"}
            for kernel in kernels
        ]
    with ThreadPoolExecutor(len(kernels)) as pool:
        return list(pool.map(partial(_memcheck, found, list(command), seconds), kernels))


def _memcheck(found: str, command: list[str], seconds: float, kernel: str) -> Row:
    # the allocator's large blocks would hide what lies beyond a tensor
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    process = subprocess.Popen(
        [found, *OPTIONS, *command, f"sanitize:{kernel}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the tool alone would leave what it runs behind
        process.communicate()
        return {"kernel": kernel, "passed": None, "failure": f"not done in {seconds:.0f} s"}
    code = process.returncode
    row: Row = {
        "kernel": kernel, "passed": {0: True, FOUND: False, WRONG: False}.get(code),
        "summary": (re.findall(r"ERROR SUMMARY: .*", text) or [""])[-1], "ran": re.findall(rf"^{RAN} (.*)", text, re.M),
    }  # fmt: skip
    if code:
        row["failure"] = _words(code, text)
    return row


def _words(code: int, text: str) -> str:
    if code == FOUND:
        return "\n".join([line for line in text.splitlines() if line.startswith("========= ")][:6])
    if code == NOTHING:
        return "not run: there is no tile for this device"
    return ("a wrong result under memcheck" if code == WRONG else f"ended with {code}") + f": {text[-600:].strip()}"
