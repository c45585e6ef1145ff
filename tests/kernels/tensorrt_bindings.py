"""The real TensorRT 11.4 Python bindings over stub libraries: enough to check plugin definitions without a GPU.

`python -m tests.kernels.tensorrt_bindings` fetches the bindings' wheel (1.3 MB) and the `tensorrt` package, which hands
on what is in them, from the package index into .assets/tensorrt_bindings, and compiles do-nothing libraries for the
nine C symbols the bindings import. Calls into TensorRT itself return null; everything written in Python, the whole
plugin layer, is real and lies as in an installation.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

VERSION = "11.4.0.106"
FOLDER = Path(__file__).resolve().parents[2] / ".assets" / "tensorrt_bindings" / f"{VERSION}-py{sys.version_info.minor}"
MISSING = "the TensorRT bindings are not there: run `python -m tests.kernels.tensorrt_bindings` (fetches 1.3 MB)"


def available() -> bool:
    """Whether the bindings and their stubs are in place."""
    library = f"libnvinfer.so.{VERSION.split('.')[0]}"
    return (FOLDER / "tensorrt").is_dir() and (FOLDER / "tensorrt_bindings" / library).exists()


def main() -> None:
    """Fetch and build; does nothing where it is done."""
    if available():
        return
    work = FOLDER.with_name(FOLDER.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    _download(work, f"tensorrt-cu13-bindings=={VERSION}")
    _download(work, "--no-build-isolation", "--no-binary=tensorrt-cu13", f"tensorrt-cu13=={VERSION}")
    with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
        wheel.extractall(work)
    with tarfile.open(next(work.glob("*.tar.gz"))) as source:
        source.extractall(work, filter="data")
    next(work.glob("tensorrt_cu13-*/tensorrt")).rename(work / "tensorrt")
    _stub_libraries(work / "tensorrt_bindings")
    shutil.rmtree(FOLDER, ignore_errors=True)
    work.rename(FOLDER)


def _download(folder: Path, *what: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), *what], check=True)


def _stub_libraries(package: Path) -> None:
    major = VERSION.split(".")[0]
    command = ["nm", "-D", "--undefined-only", str(package / "tensorrt.so")]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    wanted = {re.sub("@.*", "", name) for name in symbols if re.search("_INTERNAL|PluginRegistry|Parser|initLib", name)}
    code = package / "stub.c"
    code.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in sorted(wanted) if name.isidentifier()))
    nothing = package / "nothing.c"
    nothing.write_text("int tensorrt_stub;\n")
    for library, source in (("nvinfer", code), ("nvonnxparser", nothing), ("nvinfer_plugin", nothing)):
        name = f"lib{library}.so.{major}"
        options = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", str(package / name), str(source)]
        subprocess.run(["cc", *options], check=True)


if __name__ == "__main__":
    main()
