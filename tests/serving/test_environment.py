"""The server's own environment: what it is missing is said, what it holds is enough, making it again costs nothing."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from pathlib import Path

import pytest

from dreamactor.errors import DreamActorError, InputError, MissingDependency
from dreamactor.serving import environment
from dreamactor.serving.environment import ServerEnvironment


def test_missing_environment_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match=r"python -m dreamactor\.serving\.environment --dir"):
        ServerEnvironment(tmp_path / "none").require()


def test_environment_of_another_version_is_not_used(tmp_path: Path) -> None:
    made = ServerEnvironment(tmp_path)
    made.binary.parent.mkdir(parents=True)
    made.binary.touch()
    (tmp_path / "stamp").write_text(environment.fingerprint())
    assert made.require().root == tmp_path
    (tmp_path / "stamp").write_text("of last year")
    with pytest.raises(MissingDependency, match="another version"):
        made.require()


def test_an_environment_depends_on_its_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.fingerprint()
    monkeypatch.setattr(environment, "requirements", lambda gpu: ["numpy==1.0"])
    assert environment.fingerprint() != before


def test_an_environment_that_was_not_finished_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str]) -> None:
        Path(command[-1], "bin").mkdir()
        raise DreamActorError("pip failed")

    monkeypatch.setattr(environment, "_call", fail)
    for _ in range(2):
        with pytest.raises(DreamActorError, match="pip failed"):
            environment.make(tmp_path / "environment")


def test_python_without_its_library_is_told_what_to_install() -> None:
    with pytest.raises(MissingDependency, match=r"libpython0\.0\.so.*apt-get install"):
        environment.library_folder("libpython0.0.so")


def test_a_gpu_changes_the_runtimes_and_nothing_else() -> None:
    plain, gpu = environment.requirements(False), environment.requirements(True)
    assert set(plain) - set(gpu) == {pin for pin in plain if pin.startswith("onnxruntime==")}
    added = {pin.partition("==")[0].partition("[")[0]: pin.partition("==")[2] for pin in set(gpu) - set(plain)}
    rtx = {"tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"}
    assert set(added) == {"onnxruntime-gpu", "tensorrt-cu13", *rtx}
    builders = (environment.source_root() / "constraints.txt").read_text().replace("_", "-").splitlines()
    assert {f"{name}=={version}" for name, version in added.items()} <= set(builders)


def test_a_python_that_is_too_new_is_told_which_is_not() -> None:
    with pytest.raises(MissingDependency, match=r"Python 3\.13.*3\.11 or 3\.12"):
        environment._require_python((3, 13))


@pytest.mark.server
def test_making_it_again_changes_nothing(server_environment: Path) -> None:
    stamp = server_environment / "stamp"
    before = stamp.stat().st_mtime_ns
    environment.make(server_environment)
    assert stamp.stat().st_mtime_ns == before


@pytest.mark.server
def test_it_has_no_torch_and_needs_none(server_environment: Path) -> None:
    code = (
        "import sys, importlib.util, numpy;"
        "import dreamactor.engines, dreamactor.pipeline, dreamactor.serving.wire;"
        "assert numpy.__version__.startswith('1.');"
        "assert importlib.util.find_spec('torch') is None;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([server_environment / "bin" / "python", "-c", code], check=True, cwd="/")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not a server environment"):
        environment.make(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_two_that_make_it_at_once_do_not_disturb_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command leaves a file; what pip does takes longer than it takes the second to come."""
    root, calls = tmp_path / "environment", list[int]()

    def call(command: list[str]) -> None:
        if not calls:
            calls.append(0)
            others.start()
            others.join(0.3)
            assert others.is_alive()  # it waits
        calls.append(len(list(root.glob("installed.*"))))
        (root / f"installed.{len(calls)}").touch()

    def make() -> None:
        with contextlib.suppress(MissingDependency):  # nothing was really installed
            environment.make(root)

    others = threading.Thread(target=make)
    monkeypatch.setattr(environment, "_call", call)
    monkeypatch.setattr(environment, "_add_project", lambda environment, pip: None)
    make()
    others.join()
    assert calls == [0, *range(3), *range(3)]


def test_folder_that_the_servers_python_cannot_read_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for work in (environment.make, lambda root: ServerEnvironment(root).require()):
        with pytest.raises(InputError, match=r"reads ASCII names only, and .*/jürgen has others"):
            work(tmp_path / "jürgen")
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr(environment, "source_root", lambda: tmp_path / "jürgen")
    with pytest.raises(InputError, match="has others: use another folder"):
        environment.make(tmp_path / "venv")
