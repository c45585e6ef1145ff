"""One tritonserver process: its command line, the environment it needs on a plain machine, and how it ends.

What breaks without each piece was found by trying (Triton 2.51 from the nvidia-pytriton wheel, Debian 12).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dreamactor.errors import DreamActorError
from dreamactor.serving.environment import PYTHON, ServerEnvironment, library_folder
from dreamactor.serving.guardian import EXIT_SECONDS, GRACE_SECONDS, Guardian, kill, processes
from dreamactor.serving.jobs import folder_of

RESTRICTED = "shared-memory,model-repository,trace,logging"
_TOLD = 20  # lines of the log
_PR_SET_PDEATHSIG = 1
# tables, information, and errors that say only that there is no GPU
_NOISE = re.compile(r"^[+|]|^I\d{4} |CUDA driver version|pinned system memory|^Signal \(15\)")
_LARGE_TENSORS = {  # nearly halves the time of tensors of ten megabytes and more
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclass(frozen=True)
class Listen:
    """Where the server listens."""

    host: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002


class TritonProcess:
    """A running tritonserver. Its files lie in `folder`, its shared memory carries that folder's name: the caller's to
    remove after `stop`."""

    def __init__(
        self,
        environment: ServerEnvironment,
        repository: Path,
        listen: Listen,
        folder: Path,
    ) -> None:
        self.log = folder / "server.log"
        temporary = folder / "tmp"
        temporary.mkdir()
        command = [
            *_command(environment, repository, listen),
            f"--backend-directory={_backends(environment, folder / 'backends')}",
            f"--backend-config=python,shm-region-prefix-name={folder.name}",
            f"--exit-timeout-secs={EXIT_SECONDS}",
        ]
        parent = os.getpid()
        self._guardian = Guardian(folder)
        try:
            with self.log.open("w") as log:
                self._process = subprocess.Popen(
                    command,
                    env=_variables(environment, temporary, os.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches us, and we stop the server
                    preexec_fn=lambda: _die_with(parent),
                )
            self._guardian.watch(self.pid)
        except BaseException:
            self._guardian.dismiss()
            raise
        self.jobs_folder = folder_of(temporary, self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """None while it runs, then its exit status."""
        return self._process.poll()

    def parts(self) -> int:
        """How many model processes (python backend stubs) are alive."""
        return sum(1 for _, parent, _ in processes() if parent == self.pid)

    def memory(self) -> int:
        """Bytes of main memory that its processes hold now; what they share counts once."""
        return sum(_held(process) for process, _, group in processes() if group == self.pid)

    def log_tail(self) -> str:
        """The end of what the log says of warnings and errors."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(
            [line[:400] for line in text.splitlines() if line.strip() and not _NOISE.search(line)][-_TOLD:]
        )

    def stop(self) -> None:
        """Ends it and its model processes: politely, then by force."""
        if self.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_SECONDS + GRACE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """Ends it and its model processes at once."""
        kill(self.pid)
        self._process.wait()
        self._guardian.dismiss()


def _command(environment: ServerEnvironment, repository: Path, listen: Listen) -> list[str]:
    key = f"dreamactor-admin={secrets.token_hex(16)}"  # nobody's: what is restricted stays shut
    return [
        str(environment.binary),
        f"--model-repository={repository}",
        "--model-config-name=cpu",
        "--model-control-mode=none",
        "--disable-auto-complete-config",  # 1.5 s instead of 5 s to start
        "--exit-on-error=true",
        "--allow-gpu-metrics=false",
        f"--cache-directory={environment.triton / 'caches'}",
        f"--grpc-restricted-protocol={RESTRICTED}:{key}",
        f"--http-restricted-api={RESTRICTED}:{key}",
        f"--grpc-address={listen.host}",
        f"--grpc-port={listen.grpc_port}",
        f"--http-address={listen.host}",
        f"--http-port={listen.http_port}",
        f"--metrics-address={listen.host}",
        f"--metrics-port={listen.metrics_port}",
    ]


def _backends(environment: ServerEnvironment, folder: Path) -> Path:
    """The library must be copied (Triton refuses a linked one), the stub linked (a copy does not find libcudart)."""
    source, python = environment.triton, folder / "python"
    python.mkdir(parents=True)
    stub = source / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    if not stub.exists():
        raise DreamActorError(f"The server's wheel has no python backend for Python {PYTHON}; use Python 3.11 or 3.12.")
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy(source / "backends" / "python" / name, python / name)
    (python / stub.name).symlink_to(stub)
    return folder


def _variables(environment: ServerEnvironment, temporary: Path, outer: Mapping[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in outer.items() if not key.startswith("PYTHON")}
    libraries = [path for path in (library_folder(), kept.get("LD_LIBRARY_PATH", "")) if path]
    return {
        **kept,
        **_LARGE_TENSORS,
        "PATH": f"{environment.python.parent}:{kept.get('PATH', '')}",
        "VIRTUAL_ENV": str(environment.root),
        "LD_LIBRARY_PATH": ":".join(libraries),  # libpython, for the stub
        "TMPDIR": str(temporary),
        "NPY_PROMOTION_STATE": "weak",  # numpy 1 computes as numpy 2 does, so that served equals in-process
    }


def _die_with(parent: int) -> None:
    """In the child: asks the kernel for SIGTERM when the parent's thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _held(process: int) -> int:
    """Bytes of a process's memory, its share of what it shares with others; 0 when it has ended."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return 0
