"""The package as `pip install` leaves it, away from a checkout: what ships is in the wheel and is found there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "docs", "tests", "*.egg-info", "__pycache__")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that an unpacked wheel of this source lies in."""
    tmp = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, tmp / "source", ignore=NOT_SOURCE)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", tmp / "dist", "."], cwd=tmp / "source", check=True, capture_output=True)
    (wheel,) = (tmp / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp / "site")
    return tmp / "site"


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """What Python printed in `folder` with the installed package before all others."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment.pop("DREAMACTOR_ASSETS", None)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


def test_what_ships_is_found_in_it(installed: Path, tmp_path: Path) -> None:
    code = """
import json
from dreamactor import paths
from dreamactor.motion.assets import default_folder
from dreamactor.production import keys
groups = [value for name, value in vars(keys).items() if name.startswith("_") and isinstance(value, tuple)]
print(json.dumps({
    "checkpoint": str(paths.checkpoint("puppet")),
    "other": paths.checkpoint("m1"),
    "assets": str(default_folder().resolve()),
    "missing": [pattern for group in groups for pattern in group if not paths.shipped(pattern)],
    "outside": [str(path) for path in paths.shipped("kernels/*.py") if not path.is_relative_to(paths.PACKAGE)],
}))
"""
    found = json.loads(run(installed, tmp_path, "-c", code))
    checkpoint, name = installed / "dreamactor/checkpoints/puppet", "model.safetensors"
    assert found == {
        "checkpoint": str(checkpoint),
        "other": None,
        "assets": str(tmp_path.resolve() / ".assets"),
        "missing": [],
        "outside": [],
    }
    assert (checkpoint / name).read_bytes() == (ROOT / "checkpoints/puppet" / name).read_bytes()
    assert list((installed / "dreamactor/examples").glob("*.png"))


def test_its_checkpoint_loads(installed: Path, tmp_path: Path) -> None:
    code = """
from dreamactor import networks, paths
print(sum(value.numel() for value in networks.load(paths.checkpoint("puppet")).state_dict().values()))
"""
    assert int(run(installed, tmp_path, "-c", code)) > 1e7
