"""Everything that wants an NVIDIA GPU, in turn: `python -m dreamactor.benchmark.gpu_check [PART ...]`.

Each part runs in a process of its own, so that one that crashes takes nothing with it. Parts: kernels (correctness and
speed), denoiser (a step at m1's width), engines (those of the puppet preset by every runtime and precision that is
here, run beside FP32; then one of them timed).
Results lie in benchmark/results. Status 0 when all passed, 1 when one failed, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dreamactor.engines.gpu import local_gpu

ENGINES = Path("build/gpu-check")
BUILT = "the first FP16 set that was built"
RESULTS = Path(__file__).resolve().parent / "results"
PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "kernels": (("-m", "dreamactor.benchmark.gpu_kernels"),),
    "denoiser": (("-m", "dreamactor.benchmark.gpu_denoiser"),),
    "engines": (
        ("-m", "dreamactor.production.gpu_check", "--preset", "puppet", "--engines", str(ENGINES),
         "--output", str(RESULTS)),
        ("-m", "dreamactor.cli", "bench", "--engines", BUILT, "--quick",
         "--only", "engine,trace", "--output", "build/bench-gpu"),
    ),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts that are named, or all."""
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
    passed = {name: _run(PARTS[name]) for name in options.parts or PARTS}
    for name, good in passed.items():
        print(f"{'passed' if good else 'FAILED'}  {name}")
    return 0 if all(passed.values()) else 1


def _run(commands: Sequence[Sequence[str]]) -> bool:
    """Whether every command of a part ended with 0; the first that does not ends the part."""
    for command in commands:
        command = [str(_built()) if part == BUILT else part for part in command]
        print(f"\n$ python {' '.join(command)}", flush=True)
        if subprocess.run([sys.executable, *command], check=False).returncode:
            return False
    return True


def _built() -> Path:
    folders = [ENGINES / f"puppet-fp16-{target}" for target in ("tensorrt", "rtx", "cuda")]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


if __name__ == "__main__":
    sys.exit(main())
