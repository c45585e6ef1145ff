"""Everything that needs an NVIDIA GPU, in turn: `python -m dreamactor.benchmark.gpu_check [PART ...]`.

Each part runs in a process of its own, so that a crash takes nothing else with it. Parts: kernels (correctness and
speed), denoiser (a step at m1's width), engines (the puppet preset's, in every runtime and precision available here,
run beside FP32), bench (one of these sets timed, beside PyTorch on the same GPU).
Results are in benchmark/results, named by device and date; gpu_check_DEVICE_DATE.json has the outcome of every part and
is written again after each. Status 0 when one passed and none failed, 1 otherwise, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from dreamactor.engines.gpu import local_gpu
from dreamactor.files import write_whole

ENGINES, BENCH = Path("build/gpu-check"), Path("build/bench-gpu")
RESULTS = Path(__file__).resolve().parent / "results"
PARTS: dict[str, tuple[str, ...]] = {
    "kernels": ("-m", "dreamactor.benchmark.gpu_kernels"),
    "denoiser": ("-m", "dreamactor.benchmark.gpu_denoiser"),
    "engines": (
        "-m", "dreamactor.production.gpu_check", "--preset", "puppet", "--engines", str(ENGINES),
        "--output", str(RESULTS),
    ),
    "bench": ("-m", "dreamactor.cli", "bench", "--quick", "--only", "engine,peers,trace", "--output", str(BENCH)),
}  # fmt: skip
PASSED, FAILED, UNSUPPORTED = "passed", "failed", "not supported here"
_CANNOT = 2  # the status of a part that cannot run here


@dataclass(frozen=True)
class Outcome:
    """`state` is one of the three; `reason` is the last line of the error stream unless the part passed."""

    state: str
    reason: str = ""
    seconds: float = 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the named parts, or all."""
    parser = argparse.ArgumentParser(prog="python -m dreamactor.benchmark.gpu_check", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; choose of {', '.join(PARTS)}")
    gpu = local_gpu()
    if gpu is None:
        print("There is no NVIDIA GPU (or no driver) here; run this on a machine that has one.", file=sys.stderr)
        return 2
    print(f"{gpu.name}, {gpu.architecture}, {gpu.memory / 2**30:.0f} GiB, driver for CUDA {gpu.driver}", flush=True)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    stamp = f"{re.sub(r'[^A-Za-z0-9]+', '_', gpu.name)}_{date[:10]}"
    RESULTS.mkdir(parents=True, exist_ok=True)
    written = RESULTS / f"gpu_check_{stamp}.json"
    parts = json.loads(written.read_text())["parts"] if written.is_file() else {}  # of other calls on this day
    outcomes: dict[str, Outcome] = {}
    for name in options.parts or PARTS:
        outcomes[name] = run(name, stamp)
        parts[name] = asdict(outcomes[name])
        write_whole(written, (json.dumps({"date": date, "gpu": vars(gpu), "parts": parts}, indent=1) + "\n").encode())
    for name, found in outcomes.items():
        print(f"{found.state.upper() if found.state == FAILED else found.state}  {name}  {found.reason}".rstrip())
    states = {found.state for found in outcomes.values()}
    return 0 if PASSED in states and FAILED not in states else 1


def run(name: str, stamp: str) -> Outcome:
    """One part to its end; whatever goes wrong is its outcome. The report of bench becomes `bench_STAMP.json`."""
    start = time.monotonic()
    try:
        found = _bench(PARTS[name], stamp) if name == "bench" else _called(PARTS[name], cannot=_CANNOT)
    except Exception as error:  # the other parts still run
        found = Outcome(FAILED, f"{type(error).__name__}: {error}")
    return Outcome(found.state, found.reason, round(time.monotonic() - start, 1))


def _bench(command: Sequence[str], stamp: str) -> Outcome:
    built = [ENGINES / f"puppet-fp16-{target}" for target in ("tensorrt", "rtx", "cuda")]
    folder = next((folder for folder in built if (folder / "manifest.json").is_file()), None)
    if folder is None:
        return Outcome(UNSUPPORTED, f"{ENGINES} holds no FP16 engine set to time: see the part 'engines'")
    report = BENCH / "report.json"
    report.unlink(missing_ok=True)
    found = _called((*command, "--engines", str(folder)))
    if report.is_file():
        shutil.copyfile(report, RESULTS / f"bench_{stamp}.json")
    return found


def _called(command: Sequence[str], cannot: int | None = None) -> Outcome:
    """Runs `python COMMAND` with its output shown; `cannot` is the status that means "not supported here"."""
    print(f"\n$ python {' '.join(command)}", flush=True)
    last = ""
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True, errors="replace") as process:
        for line in process.stderr or ():
            print(line, end="", file=sys.stderr, flush=True)
            last = line.strip() or last
    if process.returncode == 0:
        return Outcome(PASSED)
    return Outcome(UNSUPPORTED if process.returncode == cannot else FAILED, last or f"status {process.returncode}")


if __name__ == "__main__":
    sys.exit(main())
