"""Peak memory of a whole clip, in a process of its own so that nothing else counts.

`python -m dreamactor.benchmark.memory ENGINES FRAMES STEPS REFERENCES PERCENT` prints what one run needed, as JSON. The
demo clip is repeated where it is too short; a picture of PERCENT of the set's sides is for sets of free sizes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dreamactor.benchmark.smi import query_gpu
from dreamactor.errors import DreamActorError


@dataclass(frozen=True)
class Peak:
    """Bytes of host memory with the engines open and idle, the most during the run, seconds of the run.

    `device_idle` and `device_peak` are the same for all memory in use on the GPU, the parent's engines included; None
    without a GPU.
    """

    frames: int
    idle: int
    peak: int
    seconds: float
    device_idle: int | None = None
    device_peak: int | None = None

    @property
    def grown(self) -> int:
        """What the clip needed on top of the open engines."""
        return max(self.peak - self.idle, 1)

    @property
    def device_grown(self) -> int | None:
        """The same on the GPU, if no other process took or freed memory there meanwhile; None without a GPU."""
        if self.device_peak is None or self.device_idle is None:
            return None
        return self.device_peak - self.device_idle

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "device_grown": self.device_grown}


def probe(
    engines: Path, frames: int, steps: int, references: int = 1, percent: int = 100, timeout: float = 600
) -> Peak:
    """Animates `frames` frames of the demo clip in a fresh process, with the demo photo `references` times and a
    picture of `percent` of the set's sides.

    Raises DreamActorError when that fails, is ended or takes longer than `timeout` seconds.
    """
    numbers = map(str, (frames, steps, references, percent))
    command = [sys.executable, "-m", "dreamactor.benchmark.memory", str(engines), *numbers]
    what = f"The memory probe of {frames} frames, {steps} steps, {references} references and {percent} % of the sides"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise DreamActorError(f"{what} was not done after {timeout:g} seconds.") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing; -9 mostly means that memory ran out"])[-1]
        raise DreamActorError(f"{what} ended with status {done.returncode}: {said}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def run(engines: Path, frames: int, steps: int, references: int = 1, percent: int = 100) -> Peak:
    """The same in this process."""
    from dreamactor.benchmark.inputs import lengthened, media
    from dreamactor.engines import open_engines
    from dreamactor.pipeline import Animator, Options

    given, opened = media(), open_engines(engines)
    height, width = (resized(side, percent) for side in (opened.preset.height, opened.preset.width))
    with Animator(replace(opened, preset=replace(opened.preset, height=height, width=width))) as animator:
        driving = lengthened(given.driving, frames / animator.engines.preset.fps)
        animator.animate([given.reference], driving, Options(steps=1, max_frames=5))  # every lazy part is loaded
        idle = _status("VmRSS")
        _reset_peak()
        device = Watch(device_used)
        start = time.perf_counter()
        photos = references * [given.reference]
        animator.animate(photos, driving, Options(steps=steps, max_frames=frames))
        seconds = time.perf_counter() - start
        device.stop()
        return Peak(frames, idle, _status("VmHWM"), seconds, device.first, device.most)


def resized(side: int, percent: int) -> int:
    """Pixels of a side at `percent`, where that is another, a multiple of 32 of at least 32."""
    return side if percent == 100 else max(32, side * percent // 100 // 32 * 32)


class Watch:
    """Asks for a size in bytes now (`first`) and every so many `seconds` until `stop`, and keeps the `most`; both None
    where it is None now."""

    def __init__(self, ask: Callable[[], int | None], seconds: float = 0.1) -> None:
        self.first = self.most = ask()
        self._ask, self._seconds, self._over = ask, seconds, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self.first is not None:
            self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(self._seconds):
            self.most = max(self.most or 0, self._ask() or 0)

    def stop(self) -> None:
        self._over.set()
        if self.first is not None:
            self._thread.join()


def device_used() -> int | None:
    """Bytes of the GPU's memory in use by all programs; None without a GPU or where it does not say."""
    number, _, unit = (query_gpu(["memory.used"]) or {}).get("memory.used", "").partition(" ")
    return int(number) << 20 if unit == "MiB" and number.isdigit() else None


def _status(key: str) -> int:
    """Bytes of this process, from /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # the peak then counts from the start of the process


if __name__ == "__main__":
    print(json.dumps(asdict(run(Path(sys.argv[1]), *map(int, sys.argv[2:])))))
