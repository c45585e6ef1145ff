"""Checks and times every kernel on the GPU of this machine; needs torch and triton, nothing else.

`python benchmark/gpu_kernels.py` from a checkout (nothing need be installed), or `python -m
dreamactor.benchmark.gpu_kernels`. Writes benchmark/results/gpu_kernels_DEVICE_TORCH_DATE.json after every step, and a
plot beside it; another run on the same day adds to it. Each kernel runs in a process of its own; where one ends early,
another goes on after the step that ended it. A tile that fails a check gets no figure. Ends with 1 if a check failed.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not __package__:  # run as a file: its folder hides standard modules
    sys.path.pop(0)

import argparse
import datetime
import json
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _importable() -> None:
    """Make `dreamactor.kernels` and `dreamactor.benchmark` importable from a checkout that is not installed."""
    import importlib.util

    if importlib.util.find_spec("dreamactor") is None:
        sys.path.insert(0, str(ROOT))
    if importlib.util.find_spec("dreamactor.kernels") is None:
        import dreamactor

        dreamactor.__path__.append(str(ROOT))


_importable()

import torch  # noqa: E402

from dreamactor.benchmark import (  # noqa: E402
    gpu_graphs,
    gpu_measure,
    gpu_plan,
    gpu_plot,
    gpu_report,
    gpu_sanitize,
    gpu_timing,
    gpu_warm,
)
from dreamactor.benchmark.gpu_report import Report  # noqa: E402
from dreamactor.kernels import dispatch  # noqa: E402

COMPILING, PEAKS, GRAPHS, SANITIZER = 0.16, 0.06, 0.08, 0.18  # of the time, kept for each
GRACE = 30.0  # seconds beyond its share before a process is ended: what it has begun may be finished
TIMED_COST = 4  # a timed case takes about as long as so many checks


def worker(options: argparse.Namespace) -> int:
    """One part, in this process; its results are in the report as soon as they are there."""
    until = time.monotonic() + options.seconds
    part, _, which = options.part.partition(":")
    if part == "compile":
        chosen = [name for name in gpu_plan.CHECKED if options.only in name]
        gpu_warm.compile_share(int(which), gpu_warm.PROCESSES, chosen, until)
        return 0
    if part == "sanitize":
        return gpu_sanitize.check(which, until)
    report = Report(options.report)
    if part == "peaks":
        report.data["peaks"] = gpu_timing.peaks()
        report.save()
    elif part == "graphs":
        gpu_graphs.check_all(report, options.run, options.only, until)
    else:
        gpu_measure.measure_kernel(which, report, options.run, until, not options.check)
    return 0


def spawn(part: str, seconds: float, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """A process of its own for one part."""
    command = [sys.executable, __file__, "--part", part, "--seconds", f"{seconds:.1f}", "--only", options.only]
    command += ["--report", str(options.report), "--run", options.run, *["--check"] * options.check]
    return subprocess.Popen(command)


def finish(part: str, until: float, options: argparse.Namespace) -> None:
    """Run a part until it is done or `until`; a process that ends early is followed by one that does the rest."""
    while (left := until - time.monotonic()) > 0:
        before = options.report.read_bytes()
        process = spawn(part, left, options)
        try:
            code = process.wait(left + GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            gpu_report.ended(Report(options.report), options.run, None, "time was up")
            return
        if code == 0:
            return
        print(f"{part}: the process ended with {code}", flush=True)
        if options.report.read_bytes() == before:  # nothing was begun: another process would do no better
            report = Report(options.report)
            row = report.row("kernels", options.run, kernel=part.partition(":")[2] or part, case="its process")
            row |= {"tiles": {}, "passed": False, "failure": f"ended with {code} before its first step"}
            report.save()
            return
        gpu_report.ended(Report(options.report), options.run, False, gpu_report.DIED)


def compile_all(seconds: float, options: argparse.Namespace) -> None:
    """Compile what will be launched, on all cores; what is not done in time is compiled when needed."""
    start = time.monotonic()
    processes = [spawn(f"compile:{index}", seconds, options) for index in range(gpu_warm.PROCESSES)]
    for process in processes:
        try:
            process.wait(max(start + seconds + GRACE - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
    print(f"Compiled on {len(processes)} processes in {time.monotonic() - start:.0f} s", flush=True)


def run(options: argparse.Namespace) -> None:
    """Every part in turn, each with its share of the time; the shortest first, which leave their rest to the others."""
    whole = options.seconds
    deadline = time.monotonic() + whole
    last = SANITIZER * whole if gpu_sanitize.tool() else GRACE
    compile_all(COMPILING * whole, options)
    if not options.check:
        finish("peaks", min(time.monotonic() + PEAKS * whole, deadline), options)
    kernels = sorted((name for name in gpu_plan.CHECKED if options.only in name), key=_length)
    for number, kernel in enumerate(kernels):
        share = _length(kernel) / sum(map(_length, kernels[number:]))
        left = deadline - GRAPHS * whole - last - time.monotonic()
        finish(f"kernel:{kernel}", time.monotonic() + share * left, options)
        judged(options)
    finish("graphs", deadline - last, options)
    judged(options)
    left = max(deadline - time.monotonic(), 1)
    command = [sys.executable, __file__, "--seconds", f"{left / 2:.1f}", "--part"]
    rows = gpu_sanitize.sanitize(kernels, command, left)
    report = Report(options.report)
    for row in rows:
        report.row("sanitizer", options.run, kernel=row["kernel"]).update(row)
    report.save()


def judged(options: argparse.Namespace) -> Report:
    """The report, judged by all that is known so far and saved."""
    report = Report(options.report)
    gpu_report.judge(report.data)
    report.data["goals"] = gpu_plot.goals(report.data)
    report.save()
    return report


def _length(kernel: str) -> int:
    return len(gpu_plan.CHECKED[kernel]) + TIMED_COST * len(gpu_plan.TIMED[kernel])


def begin(options: argparse.Namespace) -> None:
    """Open today's report of this device, or begin it."""
    now, environment = datetime.datetime.now(datetime.UTC), gpu_timing.environment()
    name = re.sub(r"\W+", "_", f"gpu_kernels_{environment['device']}_torch_{environment['torch']}")
    options.output.mkdir(parents=True, exist_ok=True)
    options.report = (options.output / f"{name}_{now:%Y-%m-%d}.json").resolve()
    options.run = f"{now:%Y-%m-%d %H:%M:%S}"
    report = Report(options.report)
    gpu_report.judge(report.data)  # an earlier run may have been cut off
    planned = gpu_plan.names()
    report.data["kernels"] = [row for row in report.data["kernels"] if row["case"] in planned]
    report.data = {
        "date": f"{now:%Y-%m-%d %H:%M} UTC", "command": " ".join(["python", *sys.argv]), **environment,
        "peaks": report.data.get("peaks", {}), **{name: report.data[name] for name in gpu_report.LISTS},
    }  # fmt: skip
    report.save()
    print(json.dumps(environment, indent=1), flush=True)


def conclude(options: argparse.Namespace) -> int:
    """Judge, plot and print the report; 1 if anything failed that this run did."""
    report = judged(options)
    gpu_plot.plot(report.data, options.report.with_suffix(".svg"))
    print(json.dumps({name: report.data[name] for name in (*gpu_report.LISTS[1:], "goals")}, indent=1))
    rows = report.of(options.run)
    print("\n".join(map(gpu_report.line, rows)))
    whole = {row.get("case") for row in rows if gpu_report.settled(row)}
    for name in gpu_plan.names(options.only, not options.check):
        if name not in whole:
            print(f"Not reached, or not to its end: {name}")
    print(f"Written: {options.report}")
    return 1 if any(gpu_report.passed(row) is False for row in rows) else 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--check", action="store_true", help="correctness only, no timing")
    parser.add_argument(
        "--seconds", type=float, default=530, help="for everything but the imports; what is not reached is named"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmark" / "results", help="folder for the results")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # what a worker does: compile:N, peaks, kernel:NAME, ...
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not any(options.only in kernel for kernel in gpu_plan.CHECKED):
        parser.error(f"no kernel's name contains '{options.only}'; there are {', '.join(gpu_plan.CHECKED)}")
    return options


def available() -> bool:
    """Whether there is a GPU."""
    return torch.cuda.is_available()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; the exit status says whether every check passed."""
    options = parsed(arguments)
    if not available():
        print("There is no CUDA GPU here; run this on a machine that has one.", file=sys.stderr)
        return 2
    try:
        dispatch.architecture(torch.device("cuda", 0))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    if options.part:
        return worker(options)
    begin(options)
    run(options)
    return conclude(options)


if __name__ == "__main__":
    sys.exit(main())
