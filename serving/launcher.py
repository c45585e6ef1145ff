"""Starts the Triton server on an engine set and stops it so that nothing is left.

`Server.start(options)` returns when a real request has gone through every stage; `serve(options)` is the command.
"""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType, TracebackType

from dreamactor.engines import Manifest, read_manifest, trust
from dreamactor.engines.runtimes import MODULES
from dreamactor.errors import DreamActorError, EngineError, InputError
from dreamactor.motion.limits import Limits
from dreamactor.serving.environment import DEFAULT_DIR, ServerEnvironment
from dreamactor.serving.folder import PrivateFolder, scarce_shared_memory, sweep
from dreamactor.serving.jobs import Jobs
from dreamactor.serving.probe import probe
from dreamactor.serving.process import Listen, TritonProcess
from dreamactor.serving.repository import write_repository

LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # what is here is not asked of a proxy
_POLL_SECONDS = 0.05
_QUIET_POLLS = 4  # without a job, from which on none is thought to follow
_WATCH_SECONDS = 1.0
_AGAIN_SECONDS = 0.05


@dataclass(frozen=True)
class ServeOptions:
    """What `dreamactor serve` was asked. A port of 0 takes a free one; with `public_key` the set must be signed by its
    owner; a stop gives a running step `exit_seconds`."""

    engines: Path
    listen: Listen = field(default_factory=Listen)
    environment: Path = DEFAULT_DIR
    limits: Limits = field(default_factory=Limits)
    public_key: bytes | None = None
    start_seconds: float = 300.0
    exit_seconds: float = 10.0


class _Crashed(DreamActorError):
    """A signal ended it before it was ready. On a machine that is very busy elsewhere the python backend aborts when it
    has waited too long for a lock (triton-inference-server/server, issue 8882): one more try is worth it."""


class Server:
    """A server that answers. Use it as a context manager, or call `stop`."""

    def __init__(self, options: ServeOptions, listen: Listen, folder: PrivateFolder) -> None:
        self.listen = listen
        self._folder = folder
        self._whole = 0
        self._manifest = read_manifest(options.engines, options.public_key)
        environment = ServerEnvironment(options.environment).require()
        _check_engines(environment, self._manifest)
        engines = folder.path / "engines"
        engines.symlink_to(options.engines.resolve())  # a name that the server's Python can read, whatever the set's is
        repository = write_repository(engines, folder.path / "repository", options.limits, options.public_key)
        self.process = TritonProcess(environment, repository, listen, folder.path)
        self._exit_seconds = options.exit_seconds

    @classmethod
    def start(cls, options: ServeOptions) -> Server:
        """Raises EngineError for a bad engine set, MissingDependency without the server's environment, InputError for a
        port that is taken, DreamActorError with the log's tail when the server does not come up in time."""
        listen = _claim(options.listen)
        sweep()
        deadline = time.monotonic() + options.start_seconds
        try:
            return cls._started(options, listen, deadline)
        except _Crashed:
            return cls._started(options, listen, deadline)

    @classmethod
    def _started(cls, options: ServeOptions, listen: Listen, deadline: float) -> Server:
        folder = PrivateFolder()
        try:
            server = cls(options, listen, folder)
        except BaseException as error:
            folder.remove()
            if isinstance(error, OSError):  # which names a file that was read, where the disk was full
                raise DreamActorError(
                    f"The server's files cannot be written to {folder.path}: {error.strerror}. TMPDIR chooses another "
                    "place."
                ) from error
            raise
        try:
            server._wait(deadline)
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def address(self) -> str:
        """HOST:PORT of its gRPC door."""
        return f"{self.listen.host}:{self.listen.grpc_port}"

    def broken(self) -> str:
        """A sentence when the process, or one of its models' processes, has died or takes no calls; else empty."""
        status = self.process.poll()
        if status is not None:
            return f"The server ended by itself with status {status}."
        if not _listens(_reachable(self.listen.host), self.listen.grpc_port):
            return "The server was told to stop, and takes no calls any more."
        parts = self.process.parts()
        return f"{self._whole - parts} of {self._whole} model processes died." if parts < self._whole else ""

    def log_tail(self) -> str:
        return self.process.log_tail()

    def stop(self) -> None:
        """Calls running jobs off, ends every process, removes the private folder and the shared memory."""
        try:
            if self.broken():  # what waits for a dead part would wait in vain
                self.process.kill()
            else:
                self._call_jobs_off(time.monotonic() + self._exit_seconds)
                self.process.stop()
        finally:
            self._folder.remove()

    def _call_jobs_off(self, deadline: float) -> None:
        """Before the server is told to exit: from then on an ensemble's steps cannot reach each other any more. Between
        two stages, and before its first, a request has no job for a moment."""
        jobs, quiet = Jobs(self.process.jobs_folder), 0
        while quiet < _QUIET_POLLS and self.process.poll() is None and time.monotonic() < deadline:
            jobs.clear()
            quiet = 0 if jobs.count() else quiet + 1
            time.sleep(_POLL_SECONDS)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait(self, deadline: float) -> None:
        """Until it says that it is ready, and then until a request has really been answered."""
        url = f"http://{_reachable(self.listen.host)}:{self.listen.http_port}/v2/health/ready"
        while not _answers(url):
            status = self.process.poll()
            if status is not None:
                kind = _Crashed if status < 0 else DreamActorError
                raise kind(f"The server could not start (status {status}). Its log ends:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise DreamActorError(f"The server was not ready in time. Its log ends:\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)
        try:
            address = f"{_reachable(self.listen.host)}:{self.listen.grpc_port}"
            probe(address, self._manifest, max(1.0, deadline - time.monotonic()))
        except DreamActorError as error:
            raise DreamActorError(f"The server started but does not work: {error}\n{self.log_tail()}") from error
        self._whole = self.process.parts()


def serve(options: ServeOptions, say: Callable[[str], None] = print) -> int:
    """Serves until SIGTERM or Ctrl-C; starts again when a model's process has died. Returns the exit status."""
    with stoppable():
        try:
            if scarce := scarce_shared_memory(options.limits.clip_bytes):
                print(scarce, file=sys.stderr, flush=True)
            server = Server.start(options)
            # the same ports after a restart, also where free ones were taken
            options = replace(options, listen=server.listen)
            while True:
                with server:
                    ports = f"gRPC {server.address}, HTTP port {server.listen.http_port}"
                    say(f"dreamactor is ready: {ports}; log until it stops: {server.process.log}")
                    while not (reason := server.broken()):
                        time.sleep(_WATCH_SECONDS)
                    print(f"{reason} Starting again. Its log ends:\n{server.log_tail()}", file=sys.stderr, flush=True)
                server = Server.start(options)
        except KeyboardInterrupt:
            return 0


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Inside, the first SIGTERM, SIGINT or SIGHUP (the terminal was closed) becomes KeyboardInterrupt; those that
    follow do not disturb the stopping. In a destructor or a hook Python drops an exception: it comes again then."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise KeyboardInterrupt

    def dropped(found: sys.UnraisableHookArgs) -> None:
        nonlocal asked
        if issubclass(found.exc_type, KeyboardInterrupt):
            asked = False
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        else:
            hook(found)

    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGALRM]
    numbers += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []  # as nohup has it
    before = {number: signal.signal(number, handle) for number in numbers}
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_engines(environment: ServerEnvironment, manifest: Manifest) -> None:
    """Raises EngineError when the set is for another machine, or the server's environment has not what runs it."""
    for record in manifest.networks.values():
        trust.check_machine(record, trust.gpu_for(record))
    for runtime in {record.runtime for record in manifest.networks.values()}:
        names = MODULES.get(runtime, (runtime,))
        if not any((environment.site_packages / name).exists() for name in names):
            raise EngineError(
                f"The engines need {runtime}, which the server's environment {environment.root} has not. Install it "
                "there, or give what 'python -m dreamactor.serving.repository' writes to NVIDIA's Triton container."
            )


def _claim(listen: Listen) -> Listen:
    """The host as an address, which is all that Triton understands, and free ports for those given as 0; raises
    InputError for one that is taken, or wanted twice, or a host that is not ours."""
    if not listen.host:
        raise InputError("--host is empty; give an address of this machine, or 0.0.0.0 for all of them.")
    address, ports = listen.host, dict[str, int]()
    with contextlib.ExitStack() as held:
        for name in ("grpc_port", "http_port", "metrics_port"):
            port = getattr(listen, name)
            candidate = held.enter_context(socket.socket())
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            option = f"--{name.replace('_', '-')}"
            if port in ports.values():
                raise InputError(f"{option} is {port}, which another of the three ports is already; give each its own.")
            try:
                candidate.bind((listen.host, port))
                candidate.listen()
            except OverflowError as error:
                raise InputError(f"{option} is {port}; a port is from 0 to 65535.") from error
            except OSError as error:
                option = "--host" if _is_of_the_host(error) else option
                raise InputError(
                    f"The server cannot listen on {listen.host}:{port} ({error.strerror}); give another {option}."
                ) from error
            address, ports[name] = candidate.getsockname()
    return replace(listen, host=address, **ports)


def _is_of_the_host(error: OSError) -> bool:
    """Whether there is no such address on this machine, whatever the port."""
    return isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL


def _reachable(host: str) -> str:
    return "127.0.0.1" if host == "0.0.0.0" else host


def _listens(host: str, port: int) -> bool:
    """Whether anybody does; yes, too, where that cannot be told."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError as error:
        return error.errno != errno.ECONNREFUSED
    return True


def _answers(url: str) -> bool:
    try:
        with LOCAL.open(url, timeout=1):
            return True
    except OSError:
        return False
