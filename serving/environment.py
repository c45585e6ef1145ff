"""The server's own virtual environment: Triton's binary, numpy 1 for its python backend, what the stages import.

`python -m dreamactor.serving.environment [--dir .venv-server]` makes it, or says in milliseconds that it is there.
The packages and their versions are those of constraints-server.txt, beside this file; where there is an NVIDIA GPU that
they run on, the runtimes are those of constraints-server-gpu.txt (not yet run: it needs one).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

import dreamactor
from dreamactor.engines.gpu import usable_gpu
from dreamactor.errors import DreamActorError, InputError, MissingDependency, guarded
from dreamactor.files import locked

DEFAULT_DIR = Path(".venv-server")
CONSTRAINTS = Path(__file__).resolve().parent / "constraints-server.txt"
GPU_RUNTIMES = CONSTRAINTS.with_name("constraints-server-gpu.txt")
NEWEST = (3, 12)  # the last Python that numpy 1 has wheels for
ALONE = "nvidia-pytriton"  # installed without its dependencies: only its tritonserver is used
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY = f"libpython{PYTHON}.so.1.0"
MAKE = "python -m dreamactor.serving.environment"


@dataclass(frozen=True)
class ServerEnvironment:
    """A virtual environment that holds the server; paths only, nothing is checked until `require`."""

    root: Path

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return self.root / "lib" / f"python{PYTHON}" / "site-packages"

    @property
    def triton(self) -> Path:
        """The tritonserver tree of the wheel: bin/, backends/, python_backend_stubs/, caches/."""
        return self.site_packages / "pytriton" / "tritonserver"

    @property
    def binary(self) -> Path:
        return self.triton / "bin" / "tritonserver"

    def require(self) -> ServerEnvironment:
        """Itself, made absolute; raises MissingDependency when it was not made for this Python and version, or when
        there is no libpython; InputError where it lies in a folder that the server's Python cannot read."""
        _require_ascii(self.root)
        if not self.binary.is_file() or _read(self.root / "stamp") != fingerprint():
            raise MissingDependency(
                f"The server's environment {self.root} is missing or made for another version; "
                f"make it with: {MAKE} --dir {self.root}"
            )
        library_folder()
        return ServerEnvironment(self.root.resolve())


def fingerprint() -> str:
    """What the environment depends on: the pins, this Python, and where `dreamactor` lies."""
    parts = [*requirements(usable_gpu() is not None), PYTHON, str(Path(dreamactor.__file__).resolve())]
    project = tomllib.loads(_read(source_root() / "pyproject.toml"))
    layout = project.get("tool", {}).get("setuptools", {})
    return hashlib.sha256("\0".join([*parts, repr(layout)]).encode()).hexdigest()


def source_root() -> Path:
    """The folder above the package: the checkout, or the site-packages it is installed in."""
    return Path(dreamactor.__file__).resolve().parent.parent


def make(root: Path = DEFAULT_DIR) -> ServerEnvironment:
    """Makes the environment in `root` unless it is there already, unchanged; raises InputError when `root` is a folder
    of something else, DreamActorError when pip fails."""
    environment = ServerEnvironment(root.resolve())
    _require_ascii(root)
    _require_python(sys.version_info[:2])
    library_folder()  # what it says is said before anything is downloaded
    with contextlib.suppress(MissingDependency):
        return environment.require()
    stamp = environment.root / "stamp"
    if environment.root.exists() and not stamp.is_file() and any(environment.root.iterdir()):
        raise InputError(f"{root} exists and is not a server environment: give another folder with --dir.")
    environment.root.mkdir(parents=True, exist_ok=True)
    with locked(environment.root):
        with contextlib.suppress(MissingDependency):  # another process made it meanwhile
            return environment.require()
        stamp.write_text("")  # from here on it is ours, also when it is not finished
        _install(environment, stamp)
        stamp.write_text(fingerprint())
    return environment.require()


def _install(environment: ServerEnvironment, stamp: Path) -> None:
    """Fills the environment's folder anew; the folder itself stays, which the lock is of."""
    for path in environment.root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path != stamp:
            path.unlink()
    _call([sys.executable, "-m", "venv", str(environment.root)])
    pins = requirements(usable_gpu() is not None)
    alone, rest = ([pin for pin in pins if pin.startswith(ALONE) == wanted] for wanted in (True, False))
    pip = [str(environment.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _call([*pip, "--no-deps", *alone])
    _call([*pip, "--constraint", str(CONSTRAINTS), *rest])
    _add_project(environment, pip)


def library_folder(name: str = LIBRARY) -> str:
    """Where libpython lies, for the server's LD_LIBRARY_PATH; empty when the system's loader knows it by itself.

    Raises MissingDependency when it is nowhere: Triton's model processes are linked with it.
    """
    base = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    folders = [base, base / (sysconfig.get_config_var("MULTIARCH") or "."), Path(sys.base_prefix) / "lib"]
    found = next((str(folder) for folder in folders if (folder / name).is_file()), "")
    if not found:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            raise MissingDependency(
                f"The server needs {name}, which {sys.executable} came without: install libpython{PYTHON} (Debian, "
                f"Ubuntu: apt-get install libpython{PYTHON}; Fedora: dnf install python{PYTHON}-libs), or use a Python "
                "built with --enable-shared."
            ) from error
    return found


def requirements(gpu: bool) -> list[str]:
    """What is installed, with versions: one onnxruntime, and both TensorRTs where there is a GPU that runs them."""
    pins = _pins(CONSTRAINTS)
    return [pin for pin in pins if not pin.startswith("onnxruntime==")] + _pins(GPU_RUNTIMES) if gpu else pins


def _pins(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _require_ascii(root: Path) -> None:
    """Triton starts its models' Python without a locale, in which it finds no module under another name."""
    for path in (root.resolve(), source_root()):
        if not str(path).isascii():
            raise InputError(f"The server's Python reads ASCII names only, and {path} has others: use another folder.")


def _require_python(version: tuple[int, ...]) -> None:
    if version > NEWEST:
        raise MissingDependency(
            f"Triton's python backend reads tensors with numpy 1 only, which Python {version[0]}.{version[1]} has no "
            f"wheels of: make the environments with Python 3.11 or 3.12 (rm -rf .venv && make setup PYTHON=python3.12)."
        )


def _add_project(environment: ServerEnvironment, pip: list[str]) -> None:
    """Lets the environment import this very `dreamactor`: the checkout as editable, an installed one through a link."""
    if (source_root() / "pyproject.toml").is_file():
        _call([*pip, "--no-deps", "--editable", str(source_root())])
    else:
        (environment.site_packages / "dreamactor").symlink_to(Path(dreamactor.__file__).resolve().parent)


def _call(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise DreamActorError(f"Making the server's environment failed at `{' '.join(command)}`:\n{tail}")


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog=MAKE, description="Makes the Triton server's own virtual environment.")
    parser.add_argument("--dir", type=Path, default=DEFAULT_DIR, help="where (default: %(default)s)")
    folder = parser.parse_args().dir
    return guarded(lambda: print(f"server environment: {make(folder).root}"), "server environment")


if __name__ == "__main__":
    sys.exit(main())
