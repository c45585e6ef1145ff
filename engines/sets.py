"""Engine sets: one folder that holds everything a pipeline opens, verified before it is opened. `set_writing.py` makes
them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from dreamactor.engines import trust
from dreamactor.engines.manifest import FILE_NAME, Manifest, NetworkRecord, read_bytes
from dreamactor.engines.runtimes import runtime_version
from dreamactor.engines.session import Session
from dreamactor.errors import EngineError
from dreamactor.presets import Preset


@dataclass(frozen=True)
class Engines:
    """Open sessions by network name. Close it, or use it as a context manager."""

    preset: Preset
    manifest: Manifest
    sessions: Mapping[str, Session]

    def session(self, name: str) -> Session:
        """The session called `name`; raises EngineError listing what is open."""
        if name not in self.sessions:
            raise EngineError(f"'{name}' is not open; these are: {', '.join(self.sessions) or 'none'}.")
        return self.sessions[name]

    def close(self) -> None:
        for session in self.sessions.values():
            session.close()

    def __enter__(self) -> Engines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_manifest(directory: Path | str, public_key: bytes | None = None) -> Manifest:
    """The manifest of a set, its signature checked first when a public key is given."""
    directory = Path(directory)
    content = read_bytes(directory)
    if public_key is not None:
        trust.check_signature(directory, content, public_key)
    return Manifest.from_json(content, str(directory / FILE_NAME))


def open_engines(
    directory: Path | str,
    threads: int | None = None,
    networks: Collection[str] | None = None,
    public_key: bytes | None = None,
) -> Engines:
    """Opens a set, or only `networks` of it, after every check of `engines.trust`; `threads` is for CPU sessions.

    Raises EngineError with the reason for anything that is missing, changed or made for another machine,
    MissingDependency where its runtime is not installed.
    """
    directory = Path(directory)
    manifest = read_manifest(directory, public_key)
    records = [manifest.network(name) for name in (networks if networks is not None else manifest.networks)]
    for record in records:
        trust.check_interface(record, manifest.preset)
        trust.check_runtime(record, runtime_version(record.runtime), trust.gpu_for(record))
    with ExitStack() as opened:
        sessions: dict[str, Session] = {}
        for record in records:
            sessions[record.name] = _open(directory, record, manifest.target, threads)
            opened.callback(sessions[record.name].close)
        opened.pop_all()
    return Engines(manifest.preset, manifest, sessions)


def _open(directory: Path, record: NetworkRecord, target: str, threads: int | None) -> Session:
    main, *external = record.files
    if record.runtime != "onnxruntime":
        from dreamactor.engines.tensorrt import TensorRTSession, Weights

        weights = None
        if record.is_stripped:
            onnx, *external = external
            weights = Weights(trust.read_onnx(directory, onnx, external), directory / onnx.path)
        return TensorRTSession(trust.read_file(directory, main), record.name, record.runtime, weights)
    from dreamactor.engines.onnxruntime import CPU, CUDA, OnnxRuntimeSession

    content = trust.read_onnx(directory, main, external)
    provider = CUDA if target == "cuda" else CPU
    return OnnxRuntimeSession(directory / main.path if external else content, record.name, threads, provider)
