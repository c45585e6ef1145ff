"""Starting and stopping the real server: what is said when it cannot, and that nothing is left when it ends."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from dreamactor.engines import read_manifest
from dreamactor.engines.gpu import local_gpu
from dreamactor.errors import Cancelled, DreamActorError, EngineError, InputError
from dreamactor.pipeline import Event, Options
from dreamactor.serving import folder as folders
from dreamactor.serving import launcher
from dreamactor.serving.client import animate
from dreamactor.serving.environment import ServerEnvironment
from dreamactor.serving.guardian import Guardian
from dreamactor.serving.launcher import Listen, ServeOptions, Server
from tests.disk import full_disk
from tests.serving.conftest import FREE, OPTIONS

SERVE = """
import sys; from pathlib import Path
from dreamactor.serving.launcher import *
listen = Listen("localhost", grpc_port=int(sys.argv[3]), http_port=0, metrics_port=0)
sys.exit(serve(ServeOptions(Path(sys.argv[1]), listen, Path(sys.argv[2])), lambda line: print(line, flush=True)))
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of temporary files of our own, to see what is left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def wait_until(what: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return int(candidate.getsockname()[1])


def processes_of(folder: Path) -> list[int]:
    """Those whose command line or environment names `folder`: a server's processes all do."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
        except OSError:
            continue
        if str(folder / folders.PREFIX).encode() in text:
            found.append(int(path.name))
    return found


def command_of(pid: int) -> str:
    """Empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def left(folder: Path) -> list[str]:
    """Whatever a server that ran with temporary files in `folder` has left on this machine."""
    return [*(str(pid) for pid in processes_of(folder)), *(str(path) for path in folder.iterdir())]


def left_regions() -> set[str]:
    """Shared memory of servers that are gone; tests beside this one have servers of their own."""
    alive = "".join(command_of(int(path.name)) for path in Path("/proc").glob("[0-9]*"))
    regions = {path.name for path in folders.SHARED_MEMORY.glob(f"{folders.PREFIX}*")}
    return {name for name in regions if name[: len(folders.PREFIX) + 8] not in alive}


@contextmanager
def serving(engines: Path, environment: Path, temporary: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, once it has said that it is ready, and its address."""
    port = free_port()
    command = [sys.executable, "-c", SERVE, str(engines), str(environment), str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=temporary, env={**os.environ, "TMPDIR": str(temporary)}
    )
    try:
        assert process.stdout is not None
        assert f"ready: gRPC 127.0.0.1:{port}," in process.stdout.readline()
        yield process, f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        wait_until(lambda: not processes_of(temporary))


def test_port_in_use_is_named_with_its_option(tiny_engines: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"{port}.*--http-port"):
            Server.start(ServeOptions(tiny_engines, replace(FREE, http_port=port)))


def test_port_wanted_twice_is_named_with_its_option(tiny_engines: Path) -> None:
    port = free_port()
    with pytest.raises(InputError, match=f"--metrics-port is {port}, which another of the three ports is"):
        Server.start(ServeOptions(tiny_engines, Listen(grpc_port=port, http_port=0, metrics_port=port)))


def test_host_of_another_machine_is_refused(tiny_engines: Path) -> None:
    with pytest.raises(InputError, match=r"192\.0\.2\.1.*give another --host"):
        Server.start(ServeOptions(tiny_engines, Listen("192.0.2.1", 0, 0, 0)))


def test_no_host_is_not_all_hosts(tiny_engines: Path) -> None:
    with pytest.raises(InputError, match="--host is empty"):
        Server.start(ServeOptions(tiny_engines, Listen("", 0, 0, 0)))


def test_folder_of_a_killed_server_is_removed_and_of_a_live_one_kept(temporary: Path) -> None:
    live, dead = folders.PrivateFolder(), folders.PrivateFolder()
    dead._held.close()
    region = folders.SHARED_MEMORY / f"{dead.path.name}region"
    region.touch()
    pipe = temporary / f"{folders.PREFIX}pipe"  # of somebody else, which opens for nobody
    os.mkfifo(pipe)
    for path in (live.path, dead.path, pipe):
        os.utime(path, (0, 0))
    folders.sweep()
    pipe.unlink()
    assert (live.path.exists(), dead.path.exists(), region.exists()) == (True, False, False)
    live.remove()
    assert not any(temporary.iterdir())


def test_a_young_folder_may_be_one_that_is_not_locked_yet(temporary: Path) -> None:
    young = temporary / f"{folders.PREFIX}young"
    young.mkdir()
    folders.sweep()
    assert young.exists()


@pytest.mark.server
def test_what_is_no_engine_set_is_refused(temporary: Path, tmp_path: Path, server_environment: Path) -> None:
    with pytest.raises(EngineError, match=r"manifest\.json"):
        Server.start(ServeOptions(tmp_path, FREE, server_environment))
    assert left(temporary) == []


@pytest.mark.server
@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"runtime": "tensorrt"}, "need tensorrt"),
        pytest.param(
            {"architecture": "sm89"},
            "was built for sm89; this machine has no NVIDIA GPU",
            marks=pytest.mark.skipif(local_gpu() is not None, reason="this machine has a GPU"),
        ),
    ],
    ids=["runtime", "machine"],
)
def test_set_that_wants_what_is_not_there_says_so(
    wanted: dict[str, str],
    reason: str,
    temporary: Path,
    tmp_path: Path,
    tiny_engines: Path,
    server_environment: Path,
) -> None:
    engines = shutil.copytree(tiny_engines, tmp_path / "engines")
    manifest = json.loads((engines / "manifest.json").read_text())
    for record in manifest["networks"].values():
        record.update(wanted)
    (engines / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineError, match=reason):
        Server.start(ServeOptions(engines, FREE, server_environment))
    assert left(temporary) == []


def test_tensorrt_rtx_is_found_by_either_name_of_its_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_engines: Path
) -> None:
    """The wheels that the server's environment gets have the bindings alone."""
    monkeypatch.setattr(launcher.trust, "check_machine", lambda record, gpu: None)
    manifest = read_manifest(tiny_engines)
    networks = {name: replace(record, runtime="tensorrt_rtx") for name, record in manifest.networks.items()}
    environment = ServerEnvironment(tmp_path)
    monkeypatch.setattr(ServerEnvironment, "site_packages", tmp_path)
    with pytest.raises(EngineError, match="need tensorrt_rtx, which the server's environment"):
        launcher._check_engines(environment, replace(manifest, networks=networks))
    (tmp_path / "tensorrt_rtx_bindings").mkdir()
    launcher._check_engines(environment, replace(manifest, networks=networks))


@pytest.mark.server
def test_changed_engine_stops_the_start_with_the_reason(
    temporary: Path, tmp_path: Path, tiny_engines: Path, server_environment: Path
) -> None:
    engines = shutil.copytree(tiny_engines, tmp_path / "engines")
    (engines / "vae_decoder.onnx").write_bytes(b"\0" * (engines / "vae_decoder.onnx").stat().st_size)
    before = left_regions()
    with pytest.raises(EngineError, match=r"^vae_decoder\.onnx"):
        Server.start(ServeOptions(engines, FREE, server_environment))
    assert left(temporary) == []
    assert left_regions() <= before


@pytest.mark.server
@pytest.mark.parametrize("crashes", [1, 2])
def test_one_that_crashes_while_it_starts_is_started_once_more(
    crashes: int, temporary: Path, tiny_engines: Path, server_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, tries = Server._wait, []

    def crash(server: Server, deadline: float) -> None:
        tries.append(server.process.pid)
        if len(tries) <= crashes:
            os.kill(server.process.pid, signal.SIGABRT)
        wait(server, deadline)

    monkeypatch.setattr(Server, "_wait", crash)
    failing = pytest.raises(DreamActorError, match=r"could not start \(status -6\)")
    with nullcontext() if crashes == 1 else failing:
        Server.start(ServeOptions(tiny_engines, FREE, server_environment)).stop()
    assert len(tries) == 2
    assert left(temporary) == []


@pytest.mark.server
def test_running_job_does_not_hold_the_stop_up(
    temporary: Path, wide_engines: Path, server_environment: Path, portrait: bytes, clip: bytes
) -> None:
    server = Server.start(ServeOptions(wide_engines, FREE, server_environment, exit_seconds=60))
    stopping = threading.Thread(target=server.stop)

    def stop(event: Event) -> None:
        if event.step == 2:
            stopping.start()

    with pytest.raises(DreamActorError, match="was stopped before the video was done"):
        animate(server.address, [portrait], clip, Options(steps=200, max_frames=10), stop)
    stopping.join(15)
    assert not stopping.is_alive()
    assert left(temporary) == []


@pytest.mark.server
def test_requests_cancelled_anywhere_or_refused_do_not_stay_in_flight(
    temporary: Path, tiny_engines: Path, server_environment: Path, portrait: bytes, clip: bytes
) -> None:
    def stop_after(events: int) -> Callable[[Event], None]:
        heard: list[Event] = []

        def listen(event: Event) -> None:
            heard.append(event)
            if len(heard) > events:
                raise Cancelled("enough")

        return listen

    with Server.start(ServeOptions(tiny_engines, FREE, server_environment)) as server:
        for events in range(0, 40, 4):
            with pytest.raises(Cancelled):
                animate(server.address, [portrait], clip, Options(steps=20, max_frames=12), stop_after(events))
        for photo in (b"", b"garbage", clip):
            with pytest.raises(InputError):
                animate(server.address, [photo], clip)
        wait_until(lambda: not any(server.process.jobs_folder.iterdir()))
        server.process.stop()
        assert "Found 0 model versions that have in-flight inferences" in server.process.log.read_text()


@pytest.mark.server
@pytest.mark.slow
def test_request_that_finds_no_shared_memory_is_answered_and_does_not_stay_in_flight(
    temporary: Path, tiny_engines: Path, server_environment: Path, portrait: bytes, clip: bytes
) -> None:
    padding = (32 << 20).to_bytes(4, "big") + b"free" + bytes((32 << 20) - 8)  # a box that players pass over
    with Server.start(ServeOptions(tiny_engines, FREE, server_environment)) as server:
        stage = next(pid for pid in processes_of(temporary) if "prepare/1/model.py" in command_of(pid))
        before = resource.prlimit(stage, resource.RLIMIT_FSIZE)
        resource.prlimit(stage, resource.RLIMIT_FSIZE, (56 << 20, before[1]))  # room for the clip once, not twice
        deadline = time.monotonic() + 60
        with pytest.raises(DreamActorError, match="does not fit the server's shared memory"):
            animate(server.address, [portrait], clip + padding, OPTIONS, cancel=lambda: time.monotonic() > deadline)
        resource.prlimit(stage, resource.RLIMIT_FSIZE, before)
        assert animate(server.address, [portrait], clip + padding, OPTIONS)
        server.process.stop()
        assert "Found 0 model versions that have in-flight inferences" in server.process.log.read_text()


def test_scarce_shared_memory_is_said() -> None:
    """Scarce is what holds a clip and not the copies of it that stages hand on at once."""
    assert folders.scarce_shared_memory(1) == ""
    assert "--shm-size" in folders.scarce_shared_memory(1 << 50)
    assert "--shm-size" in folders.scarce_shared_memory(shutil.disk_usage(folders.SHARED_MEMORY).free // 2)


@pytest.mark.server
@pytest.mark.parametrize("busy", [False, True])
def test_killed_launcher_takes_the_server_with_it(
    busy: bool, temporary: Path, wide_engines: Path, server_environment: Path, portrait: bytes, clip: bytes
) -> None:
    """With a request in flight tritonserver does not end when it is told to; who asked hears of it."""
    before = left_regions()

    def kill(event: Event) -> None:
        if event.step == 2:
            process.kill()

    with serving(wide_engines, server_environment, temporary) as (process, address):
        if busy:
            with pytest.raises(DreamActorError, match="No server answers"):
                animate(address, [portrait], clip, Options(steps=200, max_frames=10), kill)
        else:
            process.kill()
        process.wait()
        wait_until(lambda: not left(temporary))
    assert left_regions() <= before


@pytest.mark.server
def test_closed_terminal_stops_the_server(temporary: Path, tiny_engines: Path, server_environment: Path) -> None:
    with serving(tiny_engines, server_environment, temporary) as (process, _):
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 0
        assert left(temporary) == []


def test_guardian_that_is_sent_away_removes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        guardian = Guardian(folder)
        guardian.watch(other.pid)
        guardian.dismiss()
        guardian.dismiss()
        assert other.poll() is None
        assert folder.exists()
        other.kill()


@pytest.mark.parametrize("place", ["destructor", "hook of a fork"])
def test_interrupt_that_python_drops_comes_again(place: str) -> None:
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def wait(seconds: float) -> None:
        if place == "destructor":
            Dying()
        else:
            os.register_at_fork(after_in_parent=once)
            subprocess.run(["true"], preexec_fn=int, check=True)
        time.sleep(seconds)

    asked: list[int] = []

    def once() -> None:
        if not asked:
            asked.append(1)
            signal.raise_signal(signal.SIGTERM)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), launcher.stoppable():
        wait(30)
    assert time.monotonic() - started < 20


def test_second_signal_does_not_disturb_the_stopping() -> None:
    before, stopped = signal.getsignal(signal.SIGTERM), False

    def work() -> None:
        nonlocal stopped
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            stopped = True

    with pytest.raises(KeyboardInterrupt), launcher.stoppable():
        work()
    assert stopped
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("name", ["a b", "q'x", "ünï"])
def test_temporary_folder_that_the_server_cannot_name_is_refused(
    name: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / name))
    with pytest.raises(InputError, match=r"cannot keep its files in .*; set TMPDIR"):
        folders.PrivateFolder()
    assert not any((temporary / name).iterdir())


@pytest.mark.server
def test_full_disk_is_named_by_the_folder_that_was_filled(
    temporary: Path, tiny_engines: Path, server_environment: Path
) -> None:
    with full_disk(200_000), pytest.raises(DreamActorError, match=f"cannot be written to {temporary}/.*TMPDIR"):
        Server.start(ServeOptions(tiny_engines, FREE, server_environment))
    assert left(temporary) == []


@pytest.mark.server
def test_set_in_a_folder_of_another_alphabet_is_served(
    temporary: Path, tmp_path: Path, tiny_engines: Path, server_environment: Path
) -> None:
    engines = shutil.copytree(tiny_engines, tmp_path / "ünï 日本")
    Server.start(ServeOptions(engines, FREE, server_environment)).stop()
    assert left(temporary) == []


@pytest.mark.server
@pytest.mark.parametrize(
    ("part", "death", "number"),
    [
        ("denoise/1/model.py", signal.SIGSEGV, signal.SIGTERM),
        ("tritonserver --", signal.SIGSEGV, signal.SIGINT),
        ("tritonserver --", signal.SIGTERM, signal.SIGINT),
    ],
)
def test_part_that_dies_at_work_brings_a_new_server_at_the_same_address(
    part: str,
    death: signal.Signals,
    number: signal.Signals,
    temporary: Path,
    wide_engines: Path,
    server_environment: Path,
    portrait: bytes,
    clip: bytes,
    expected: bytes,
) -> None:
    """One that stops cleanly when it is asked, too. Told to stop, tritonserver waits for its requests in vain."""
    killed: list[int] = []

    def kill(event: Event) -> None:
        if event.step == 2 and not killed:
            killed.extend(pid for pid in processes_of(temporary) if part in command_of(pid))
            os.kill(killed[0], death)

    before = left_regions()
    with serving(wide_engines, server_environment, temporary) as (process, address):
        with pytest.raises(DreamActorError):
            animate(address, [portrait], clip, Options(steps=100, max_frames=10), kill)
        assert len(killed) == 1
        assert process.stdout is not None
        assert address in process.stdout.readline()
        assert left_regions() <= before
        assert animate(address, [portrait], clip, OPTIONS) == expected
        assert processes_of(temporary)
        process.send_signal(number)
        assert process.wait(30) == 0
        assert left(temporary) == []
        assert left_regions() <= before
