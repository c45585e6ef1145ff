"""What make would do: an environment for each kind of machine, one onnxruntime in it, no server without engines."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dreamactor.doctor import SETUP
from dreamactor.engines.gpu import local_gpu

ROOT = Path(__file__).resolve().parents[1]


def make(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    if path is not None:
        variables["PATH"] = f"{path}:{variables['PATH']}"
    command = ["make", "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)


def planned(venv: Path, gpu: str) -> str:
    """What `make lint` would run first for an environment in `venv` on a machine of this kind."""
    done = make("--dry-run", "lint", f"VENV={venv}", f"GPU={gpu}")
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("ruff")[0]


def script(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("gpu", "extra", "other"), [("cpu", "cpu", "onnxruntime-gpu"), ("gpu", "gpu", "onnxruntime")])
def test_an_environment_of_the_other_kind_is_changed_to_this_one(
    tmp_path: Path, gpu: str, extra: str, other: str
) -> None:
    (tmp_path / f".ready-{'gpu' if gpu == 'cpu' else 'cpu'}").touch()
    steps = planned(tmp_path, gpu)
    assert f"pip show --quiet {other} " in steps
    assert steps.index("uninstall --quiet --yes onnxruntime onnxruntime-gpu") < steps.index(f"'.[{extra},")
    assert steps.index(f"rm -f {tmp_path}/.ready*") < steps.index(f"touch {tmp_path}/.ready-{gpu}")
    (tmp_path / f".ready-{gpu}").touch()
    assert "install" not in planned(tmp_path, gpu)


def test_the_servers_environment_is_made_for_the_kind_of_machine_too(tmp_path: Path) -> None:
    for kind in ("cpu", "gpu"):
        (tmp_path / f".ready-{kind}").touch()
    server = tmp_path / "server"
    server.mkdir()
    (server / ".ready-cpu").touch()
    for kind, made in (("cpu", False), ("gpu", True)):
        places = f"VENV={tmp_path}", f"SERVER={server}", f"GPU={kind}"
        done = make("--dry-run", "setup", *places, "--old-file", ".assets/.ready")
        assert done.returncode == 0
        assert ("dreamactor.serving.environment" in done.stdout) is made


def test_the_doctors_remedy_is_no_dead_end(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.ready-gpu").touch()
    assert "install" not in planned(tmp_path / ".venv", "gpu")
    remedy, _, after = SETUP.partition(" && ")
    assert after == "make setup"
    subprocess.run(remedy, shell=True, check=True, cwd=tmp_path)
    assert "uninstall" in planned(tmp_path / ".venv", "gpu")


def test_the_kind_of_machine_is_what_engines_run_on(tmp_path: Path) -> None:
    """Not what nvidia-smi says: a container may have the one without the other."""
    script(tmp_path / "nvidia-smi", "exit 0")
    done = make("--dry-run", "lint", f"VENV={tmp_path}", path=tmp_path)
    assert f"'.[{'gpu' if local_gpu() else 'cpu'},export" in done.stdout


@pytest.mark.parametrize(("status", "served"), [(0, True), (1, False)])
def test_serve_stops_where_the_build_fails(tmp_path: Path, status: int, served: bool) -> None:
    called, environment = tmp_path / "called", tmp_path / "venv"
    script(
        environment / "bin/dreamactor",
        f'echo "$@" >> {called}',
        f'if [ "$1" = build ]; then [ {status} = 1 ] || echo the/set; exit {status}; fi',
    )
    for folder in (environment, tmp_path / "server"):
        folder.mkdir(exist_ok=True)
        (folder / ".ready-cpu").touch()
    places = f"VENV={environment}", f"SERVER={tmp_path / 'server'}"
    done = make("serve", *places, "GPU=cpu", "PYTHON=false", "--old-file", ".assets/.ready")  # false installs nothing
    assert (done.returncode == 0) is served
    calls = called.read_text().splitlines()
    assert calls[0].startswith("build --preset puppet")
    assert calls[1:] == (["serve --engines the/set"] if served else [])


@pytest.mark.parametrize(
    ("goal", "variables", "called"),
    [
        ("eval", ["CHECKPOINT=mine"], "dreamactor eval --preset puppet --checkpoint mine"),
        ("bench", ["PRESET=tiny", "PRECISION=int8"], "dreamactor bench --preset tiny --precision int8"),
        ("engines", [], "dreamactor build --preset puppet  --target auto"),
        ("engines", ["PRECISION=fp8", "TARGET=sm89"], "dreamactor build --preset puppet --precision fp8 --target sm89"),
        ("demo", ["CHECKPOINT=mine"], ""),
        ("train", ["PRECISION=fp8"], ""),
        ("bench", ["TARGET=cpu"], ""),
        ("eval", ["TARGET=cpu"], ""),
    ],
)
def test_what_is_named_is_handed_on_or_refused(goal: str, variables: list[str], called: str) -> None:
    done = make("--dry-run", goal, *variables)
    assert (done.returncode == 0) is bool(called)
    if called:
        assert called in done.stdout
    else:
        assert f"{goal} takes no {variables[0].partition('=')[0]}: `make help` lists what does" in done.stderr
