"""Everything that is checked before a deserialiser sees a byte of an engine.

Paths stay inside the set's folder, hashes match the manifest, the manifest's signature matches the key (where a key is
given), the file is what it says it is and never a pickle, inputs and outputs are those of the preset's networks, and
runtime and GPU are the ones the engine was built for.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from dreamactor import files
from dreamactor.engines.gpu import Gpu, local_gpu
from dreamactor.engines.manifest import FILE_NAME, SIGNATURE_NAME, FileRecord, NetworkRecord
from dreamactor.engines.onnxfile import external_files
from dreamactor.engines.processor import VNNI, has_vnni
from dreamactor.engines.session import TensorSpec
from dreamactor.errors import EngineError, MissingDependency
from dreamactor.interfaces import Port, interface
from dreamactor.presets import Preset

_PICKLE_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib", ".npy", ".npz"}
_PICKLE_HEAD = re.compile(rb"\x80[\x01-\x05][^\0]|PK\x03\x04")  # no opcode is 0; safetensors may go on with one
_REBUILD = "Build the set again or fetch it from a source you trust."


def sha256(*paths: Path) -> str:
    """SHA-256 of a file, in hex; of several (an ONNX and its weights beside it) as `together` has it."""
    return together([files.sha256(path) for path in paths])


def together(hashes: Sequence[str]) -> str:
    """One SHA-256 for several files from theirs, in this order; a single file keeps its own."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def safe_path(directory: Path, name: str) -> Path:
    """`name` inside `directory`; raises EngineError for what is absolute, leaves the folder or can name no file."""
    pure = PurePosixPath(name)
    inside = name and not pure.is_absolute() and ".." not in pure.parts and "\\" not in name and ":" not in name
    path = directory / pure
    try:
        inside = inside and path.resolve().is_relative_to(directory.resolve()) and len(name) < 256
    except (OSError, ValueError, RuntimeError):  # characters that no name has; a link that leads to itself
        inside = False
    if not inside:
        raise EngineError(
            f"The manifest names {name[:80]!r}, which leaves the folder of the set or cannot be in it. {_REBUILD}"
        )
    return path


def check_file(directory: Path, record: FileRecord) -> Path:
    """The verified path of a file that is opened by path; raises EngineError with what does not match."""
    path = _present(directory, record)
    with path.open("rb") as file:
        _refuse_pickle(record.path, file.read(8))
    _compare(record, path.stat().st_size, sha256(path))
    return path


def read_file(directory: Path, record: FileRecord) -> bytes:
    """The verified bytes of a file: exactly these go to the deserialiser, so nothing can change in between."""
    path = _present(directory, record)
    if path.stat().st_size != record.bytes:
        _compare(record, path.stat().st_size, "")
    content = path.read_bytes()
    _refuse_pickle(record.path, content[:8])
    _compare(record, len(content), hashlib.sha256(content).hexdigest())
    return content


def read_onnx(directory: Path, main: FileRecord, external: Sequence[FileRecord]) -> bytes:
    """The verified bytes of an ONNX; every external-data file that it names must be one of `external`, which are
    verified too (and so inside the folder)."""
    content = read_file(directory, main)
    listed = {file.path for file in external}
    for location in sorted(external_files(content, main.path)):
        safe_path(directory, location)
        if location not in listed:
            raise EngineError(f"{main.path} reads '{location}', which its manifest does not list. {_REBUILD}")
    for file in external:
        check_file(directory, file)
    return content


def specs(preset: Preset, network: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of `network`; -1 marks the sizes that the preset leaves open."""
    ports = interface(preset, network)
    return _specs(ports.inputs), _specs(ports.outputs)


def _specs(ports: Mapping[str, Port]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, port.dtype, tuple(-1 if isinstance(length, str) else length for length in port.shape))
        for name, port in ports.items()
    )


def check_interface(record: NetworkRecord, preset: Preset) -> None:
    """Raises EngineError unless the inputs and outputs in the manifest are those of `preset`: names, types, ranks and
    the sizes that it fixes. Whether the engine has them too, only its deserialiser can tell."""
    for recorded, expected in zip((record.inputs, record.outputs), specs(preset, record.name), strict=True):
        found, wanted = ({spec.name: spec for spec in side} for side in (recorded, expected))
        for name in sorted(found.keys() | wanted.keys()):
            if name not in found or name not in wanted or not _agree(found[name], wanted[name]):
                raise EngineError(
                    f"{record.name} has {found.get(name, f'no {name}')} in its manifest and "
                    f"{wanted.get(name, f'no {name}')} in preset {preset.name}. {_REBUILD}"
                )


def _agree(a: TensorSpec, b: TensorSpec) -> bool:
    """Whether types and ranks are the same, and sizes where both say one."""
    return (a.dtype, len(a.shape)) == (b.dtype, len(b.shape)) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(a.shape, b.shape, strict=True)
    )


def runs_on(record: NetworkRecord, gpu: Gpu | None) -> bool:
    """Whether an engine for its `architecture` ("any", "sm89", or "sm80+": that and later), and for its model of card
    where it names one, runs on `gpu` (None where there is none); one for "vnni" does where the processor has that."""
    if record.architecture == VNNI:
        return has_vnni()
    least = re.fullmatch(r"sm(\d+)\+", record.architecture)
    if gpu is None or least is None:
        fits = record.architecture in ("any", gpu and gpu.architecture)
    else:
        fits = gpu.capability >= int(least[1])
    return fits and record.gpu in ("", gpu and gpu.name)


def runs_here(record: NetworkRecord) -> bool:
    """`runs_on` this machine's GPU."""
    return runs_on(record, gpu_for(record))


def check_runtime(record: NetworkRecord, installed: str, gpu: Gpu | None) -> None:
    """Raises EngineError unless this runtime version and this GPU or processor can run the engine.

    TensorRT engines want exactly the version that built them; ONNX files that version or a later one.
    """
    if record.runtime == "onnxruntime":
        if _release(installed) < _release(record.runtime_version):
            raise EngineError(
                f"{record.name} was made for onnxruntime {record.runtime_version} or later; {installed} is installed: "
                "upgrade it."
            )
    elif installed != record.runtime_version:
        raise EngineError(
            f"{record.name} was built by {record.runtime} {record.runtime_version}; {installed} is installed: "
            f"install {record.runtime_version} or build the engines again."
        )
    check_machine(record, gpu)


def gpu_for(record: NetworkRecord) -> Gpu | None:
    """This machine's GPU, looked for only where the engine is not for any machine."""
    return local_gpu() if record.architecture != "any" else None


def check_machine(record: NetworkRecord, gpu: Gpu | None) -> None:
    """Raises EngineError unless the engine runs on this GPU (None where there is none) or processor."""
    if runs_on(record, gpu):
        return
    if record.architecture == VNNI:
        raise EngineError(
            f"{record.name} has signed 8-bit weights, whose products are exact with VNNI alone, and this processor is "
            "not known to have it: build the set again here, which takes unsigned ones."
        )
    if gpu is not None and runs_on(replace(record, gpu=""), gpu):
        raise EngineError(
            f"{record.name} was built for {record.gpu} alone; this machine has {gpu.name}: build the engines for it, "
            f"or with --hardware-compatibility same-compute-capability for every card of {record.architecture}."
        )
    found = f"has {gpu.architecture}" if gpu else "has no NVIDIA GPU (or no driver)"
    built = record.architecture.replace("+", " or later")
    raise EngineError(f"{record.name} was built for {built}; this machine {found}: build the engines for it.")


def sign(directory: Path, private_key: bytes) -> Path:
    """Writes the Ed25519 signature of the manifest beside it; `private_key` is PEM or 32 raw bytes."""
    _, private, serialization = _ed25519()
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        key = (
            serialization.load_pem_private_key(private_key, None)
            if private_key.startswith(b"-----")
            else private.from_private_bytes(private_key)
        )
        if not isinstance(key, private):
            raise ValueError("it is a key of another kind")
        signature: bytes = key.sign((directory / FILE_NAME).read_bytes())
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        raise EngineError(f"That is not an Ed25519 private key: {error}.") from error
    path = directory / SIGNATURE_NAME
    path.write_text(base64.b64encode(signature).decode() + "\n")
    return path


def check_signature(directory: Path, manifest: bytes, public_key: bytes) -> None:
    """Raises EngineError unless `manifest` is signed by the owner of `public_key` (PEM or 32 raw bytes)."""
    public, _, serialization = _ed25519()
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    path = directory / SIGNATURE_NAME
    if not path.is_file():
        raise EngineError(f"A public key was given, and {directory} has no signature ({SIGNATURE_NAME}): refused.")
    try:
        key = (
            serialization.load_pem_public_key(public_key)
            if public_key.startswith(b"-----")
            else public.from_public_bytes(public_key)
        )
        if not isinstance(key, public):
            raise ValueError("the key is of another kind than Ed25519")
        key.verify(base64.b64decode(path.read_text().strip(), validate=True), manifest)
    except InvalidSignature as error:
        raise EngineError(
            f"The signature of {directory / FILE_NAME} does not match the public key: refused."
        ) from error
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        raise EngineError(
            f"The signature or the public key of {directory} cannot be read ({error}): refused."
        ) from error


def _ed25519() -> tuple[Any, Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    except ImportError as error:
        raise MissingDependency("Signatures need cryptography: pip install cryptography.") from error
    return Ed25519PublicKey, Ed25519PrivateKey, serialization


def _present(directory: Path, record: FileRecord) -> Path:
    path = safe_path(directory, record.path)
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        raise EngineError(f"{record.path}: files of this kind can hold pickles and are never loaded. {_REBUILD}")
    if not path.is_file():
        raise EngineError(f"{path} is missing. {_REBUILD}")
    return path


def _refuse_pickle(name: str, head: bytes) -> None:
    if _PICKLE_HEAD.match(head):
        raise EngineError(f"{name} is a pickle or a zip archive, not an engine: never loaded. {_REBUILD}")


def _compare(record: FileRecord, size: int, digest: str) -> None:
    if size != record.bytes:
        raise EngineError(
            f"{record.path} has {size} bytes; the manifest says {record.bytes}: it was changed or cut. {_REBUILD}"
        )
    if digest != record.sha256:
        raise EngineError(
            f"{record.path} has SHA-256 {digest[:16]}…; the manifest says {record.sha256[:16]}…: it was changed. "
            + _REBUILD
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,9}", version)[:2])
