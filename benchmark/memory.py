"""Peak memory of a whole clip, in a process of its own so that nothing else counts.

`python -m dreamactor.benchmark.memory ENGINES FRAMES STEPS REFERENCES` prints what one run needed, as JSON. The demo
clip is played over and over where it is shorter than that.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from dreamactor.benchmark.environment import gpu
from dreamactor.errors import DreamActorError


@dataclass(frozen=True)
class Peak:
    """Bytes of host memory with the engines open and idle, the most during the run, seconds of the run; `device` is
    the most GPU memory in use on the machine during the run, None without a GPU."""

    frames: int
    idle: int
    peak: int
    seconds: float
    device: int | None = None

    @property
    def grown(self) -> int:
        """What the clip needed on top of the open engines."""
        return max(self.peak - self.idle, 1)


def probe(engines: Path, frames: int, steps: int, references: int = 1, timeout: float = 600) -> Peak:
    """Animates `frames` frames of the demo clip in a fresh process, the demo photo given so many times."""
    numbers = map(str, (frames, steps, references))
    command = [sys.executable, "-m", "dreamactor.benchmark.memory", str(engines), *numbers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise DreamActorError(f"The memory probe failed: {done.stderr.strip().splitlines()[-1:]}")
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def run(engines: Path, frames: int, steps: int, references: int = 1) -> Peak:
    """The same in this process."""
    from dreamactor.benchmark.inputs import lengthened, media
    from dreamactor.pipeline import Animator, Options

    given = media()
    with Animator.open(engines) as animator:
        driving = lengthened(given.driving, frames / animator.engines.preset.fps)
        animator.animate([given.reference], driving, Options(steps=1, max_frames=5))  # every lazy part is loaded
        idle = _status("VmRSS")
        _reset_peak()
        device = _DevicePeak()
        start = time.perf_counter()
        photos = references * [given.reference]
        animator.animate(photos, driving, Options(steps=steps, max_frames=frames))
        seconds = time.perf_counter() - start
        return Peak(frames, idle, _status("VmHWM"), seconds, device.stop())


class _DevicePeak:
    """Asks the GPU for its used memory ten times a second until `stop`."""

    def __init__(self) -> None:
        self._most, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True) if gpu() else None
        if self._thread:
            self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
            done = subprocess.run(query, capture_output=True, text=True, check=False)
            first = done.stdout.splitlines()[:1]
            self._most = max([self._most, *(int(line) << 20 for line in first if line.strip().isdigit())])

    def stop(self) -> int | None:
        if self._thread is None:
            return None
        self._over.set()
        self._thread.join()
        return self._most


def _status(key: str) -> int:
    """Bytes of this process, after /proc; the peak of getrusage where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # the peak then counts from the start of the process


if __name__ == "__main__":
    print(json.dumps(asdict(run(Path(sys.argv[1]), *map(int, sys.argv[2:])))))
