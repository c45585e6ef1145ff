"""The design's import rules: who stands on whom, and no torch behind what runs a built engine."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BASE = {"checkpoints", "errors", "fidelity", "files", "interfaces", "paths", "presets", ""}  # "" for its version
FOLDERS = {
    "kernels": ROOT / "kernels", "networks": ROOT / "dreamactor/networks", "motion": ROOT / "dreamactor/motion",
    "export": ROOT / "export", "engines": ROOT / "engines", "pipeline": ROOT / "dreamactor/pipeline",
    "serving": ROOT / "serving", "training": ROOT / "training",
}  # fmt: skip
MAY_IMPORT = {
    "kernels": set(),
    "networks": {"kernels"},
    "motion": set(),
    "export": {"networks", "kernels"},
    "engines": {"kernels"},
    "pipeline": {"engines", "motion"},
    "serving": {"pipeline", "engines", "motion"},
    "training": {"networks", "motion", "pipeline", "contact_sheet"},
}
TORCHLESS = ("motion", "pipeline", "serving")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "dreamactor":
            names = [f"dreamactor.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "dreamactor":
                rooms.add(parts[1] if len(parts) > 1 and not parts[1].startswith("__") else "")
    return rooms


@pytest.mark.parametrize("room", list(FOLDERS))
def test_rooms_stand_only_on_what_lies_below(room: str) -> None:
    files = list(FOLDERS[room].rglob("*.py"))
    assert files
    for path in files:
        strangers = imported_rooms(path) - MAY_IMPORT[room] - BASE - {room}
        assert not strangers, f"{path.relative_to(ROOT)} imports {', '.join(sorted(strangers))}"


@pytest.mark.parametrize("room", TORCHLESS)
def test_no_torch_is_named_where_engines_run(room: str) -> None:
    for path in FOLDERS[room].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in ("torch", "triton") for name in names), path


def test_running_an_engine_set_loads_no_torch(tiny_engines: Path) -> None:
    program = (
        "import sys; from dreamactor.pipeline import Animator; import dreamactor.serving.client;"
        f"Animator.open({str(tiny_engines)!r}).close();"
        "sys.exit(', '.join(m for m in ('torch', 'onnx', 'triton', 'modelopt') if m in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_help_needs_nothing_slow() -> None:
    program = (
        "import sys; from dreamactor.cli import _parser; _parser().format_help();"
        "sys.exit(', '.join(m for m in ('torch', 'numpy', 'onnxruntime', 'cv2', 'av') if m in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
