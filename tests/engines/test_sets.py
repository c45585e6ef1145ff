"""Engine sets open only when everything about them is as the manifest says, and say why not."""

from __future__ import annotations

import base64
import os
import pickle
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from dreamactor.engines import (
    open_engines,
    read_manifest,
    sets,
    tensorrt,
    trust,
)
from dreamactor.engines.gpu import Gpu
from dreamactor.engines.manifest import FileRecord
from dreamactor.engines.onnxruntime import CUDA, OnnxRuntimeSession
from dreamactor.errors import EngineError, InputError
from dreamactor.pipeline import Animator
from dreamactor.presets import preset

from .conftest import MakeSet, edit, linear_model, record


def card(architecture: str, name: str = "NVIDIA Nothing 1") -> Gpu:
    return Gpu(name, architecture, 2**34, "13.0")


def relist(folder: Path, name: str, content: bytes) -> None:
    """Puts `content` in the set as `name` with a manifest that agrees: what a forger without the key can do."""
    (folder / name).write_bytes(content)
    file = {"path": name, "sha256": trust.sha256(folder / name), "bytes": len(content)}
    edit(folder, lambda m: m["networks"]["denoiser"]["files"].__setitem__(0, file))


@pytest.mark.parametrize("external", [False, True])
def test_set_opens_and_computes_what_its_models_say(make_set: MakeSet, external: bool) -> None:
    folder = make_set("denoiser", "vae_decoder", external=external)
    x = np.arange(8, dtype=np.float32)[None]
    weight = onnx.numpy_helper.to_array(onnx.load(folder / "denoiser.onnx").graph.initializer[0])
    with open_engines(folder, threads=1) as engines:
        assert engines.preset == preset("tiny")
        assert set(engines.sessions) == {"denoiser", "vae_decoder"}
        np.testing.assert_allclose(engines.session("denoiser").run({"x": x})["y"], x @ weight, rtol=1e-5)
    with pytest.raises(EngineError, match="closed"):
        engines.session("denoiser").run({"x": x})


def test_only_the_networks_asked_for_are_opened(make_set: MakeSet) -> None:
    folder = make_set("denoiser", "vae_decoder")
    (folder / "vae_decoder.onnx").write_bytes(b"junk")
    with open_engines(folder, threads=1, networks=["denoiser"]) as engines:
        assert list(engines.sessions) == ["denoiser"]
        with pytest.raises(EngineError, match="these are: denoiser"):
            engines.session("vae_decoder")
    with pytest.raises(EngineError, match="no 'pose_encoder'; it holds denoiser, vae_decoder"):
        open_engines(folder, networks=["pose_encoder"])


def test_what_was_opened_is_closed_when_the_next_cannot_be(make_set: MakeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, closed, close = make_set("denoiser", "vae_decoder"), list[str](), OnnxRuntimeSession.close
    (folder / "vae_decoder.onnx").write_bytes(b"junk")

    def noted(session: OnnxRuntimeSession) -> None:
        closed.append(session.name)
        close(session)

    monkeypatch.setattr(OnnxRuntimeSession, "close", noted)
    with pytest.raises(EngineError, match=r"vae_decoder\.onnx"):
        open_engines(folder)
    assert closed == ["denoiser"]


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({}, "takes x; it was given nothing"),
        ({"x": np.zeros((1, 8), np.float64)}, r"x float32\[1, 8\]; it was given float64"),
        ({"x": np.zeros((1, 7), np.float32)}, r"float32\[1, 7\]"),
        ({"x": np.zeros((1, 8), np.float32), "z": np.zeros(1)}, "given x, z"),
    ],
)
def test_inputs_that_do_not_fit_are_named(make_set: MakeSet, inputs: dict, reason: str) -> None:
    with open_engines(make_set(), threads=1) as engines, pytest.raises(InputError, match=reason):
        engines.session("denoiser").run(inputs)


@pytest.mark.parametrize("external", [False, True])
def test_one_flipped_byte_is_refused(make_set: MakeSet, external: bool) -> None:
    folder = make_set(external=external)
    path = folder / ("denoiser.onnx.data" if external else "denoiser.onnx")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(EngineError, match=f"{path.name} has SHA-256 .* changed"):
        open_engines(folder)


def test_a_set_with_a_network_missing_makes_no_clips(make_set: MakeSet) -> None:
    with pytest.raises(EngineError, match="no 'vae_encoder'; it holds denoiser"):
        Animator.open(make_set("denoiser"))


def test_cut_missing_and_unlisted_files_are_refused(make_set: MakeSet) -> None:
    folder = make_set(external=True)
    data = folder / "denoiser.onnx.data"
    content = data.read_bytes()
    data.unlink()
    with pytest.raises(EngineError, match=r"denoiser\.onnx\.data is missing"):
        open_engines(folder)
    data.write_bytes(content[:-1])
    with pytest.raises(EngineError, match="has 255 bytes; the manifest says 256"):
        open_engines(folder)
    edit(folder, lambda m: m["networks"]["denoiser"]["files"].pop())
    with pytest.raises(EngineError, match=r"reads 'denoiser.onnx.data', which its manifest does not list"):
        open_engines(folder)


@pytest.mark.parametrize(
    "path",
    ["../outside.onnx", "/etc/hosts", "a/../../outside.onnx", "C:\\x.onnx", "", "a\0b", "\ud800", "a" * 5000, "loop"],
)
def test_paths_that_leave_the_folder_are_refused(make_set: MakeSet, path: str) -> None:
    folder = make_set()
    linear_model(folder.parent / "outside.onnx")
    (folder / "loop").symlink_to("loop")
    edit(folder, lambda m: m["networks"]["denoiser"]["files"][0].update(path=path))
    with pytest.raises(EngineError, match="leaves the folder"):
        open_engines(folder)


@pytest.mark.parametrize("name", ["outside.onnx", "set-of-another/denoiser.onnx"])
def test_symbolic_link_out_of_the_folder_is_refused(make_set: MakeSet, name: str) -> None:
    """A folder whose name begins with the set's is another one, too."""
    folder = make_set()
    outside = folder.parent / name
    outside.parent.mkdir(exist_ok=True)
    (folder / "denoiser.onnx").rename(outside)
    (folder / "denoiser.onnx").symlink_to(outside)
    with pytest.raises(EngineError, match="leaves the folder"):
        open_engines(folder)


def test_external_data_path_inside_the_onnx_may_not_leave_the_folder(make_set: MakeSet) -> None:
    folder = make_set(external=True)
    model = onnx.load(folder / "denoiser.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../secret"
    relist(folder, "forged.onnx", model.SerializeToString())
    with pytest.raises(EngineError, match=r"'\.\./secret', which leaves the folder"):
        open_engines(folder)


def test_pickles_are_refused_whatever_they_are_called(make_set: MakeSet) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return os.abort, ()

    folder = make_set()
    for name, content in (("x.onnx", pickle.dumps(Bomb())), ("y.onnx", b"PK\x03\x04zip"), ("z.pt", b"anything")):
        relist(folder, name, content)
        with pytest.raises(EngineError, match="never loaded"):
            open_engines(folder)


def test_weights_beside_a_model_are_no_pickle_either(tmp_path: Path) -> None:
    path = tmp_path / "denoiser.onnx.data"
    path.write_bytes(pickle.dumps({}))
    with pytest.raises(EngineError, match="never loaded"):
        trust.check_file(tmp_path, FileRecord(path.name, trust.sha256(path), path.stat().st_size))


def test_a_file_that_begins_as_a_pickle_cannot_is_none(make_set: MakeSet) -> None:
    """The first eight bytes of safetensors are the length of its header: 384 of these begin as a pickle's do."""
    folder = make_set()
    content = struct.pack("<Q", 384) + b"{}".ljust(384)
    relist(folder, "a.safetensors", content)
    assert trust.read_file(folder, read_manifest(folder).network("denoiser").files[0]) == content
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        relist(folder, "a.safetensors", pickle.dumps([], protocol))
        with pytest.raises(EngineError, match="never loaded"):
            trust.read_file(folder, read_manifest(folder).network("denoiser").files[0])


def test_corrupt_onnx_with_a_matching_hash_is_an_engine_error(make_set: MakeSet) -> None:
    folder = make_set()
    whole = (folder / "denoiser.onnx").read_bytes()
    for content in (b"\x08\x0a" + os.urandom(0) + b"\xff" * 40, whole[: len(whole) // 2], b""):
        relist(folder, "bad.onnx", content)
        with pytest.raises(EngineError, match=r"not an ONNX|cannot load"):
            open_engines(folder)


def test_other_gpu_runtime_and_version_are_refused(make_set: MakeSet) -> None:
    with pytest.raises(EngineError, match="built for sm42; this machine has"):
        open_engines(make_set(architecture="sm42"))
    with pytest.raises(EngineError, match=r"made for onnxruntime 99.1 or later"):
        open_engines(make_set(folder="later", runtime_version="99.1"))
    exact = record("denoiser", runtime="tensorrt_rtx", runtime_version="1.7.1.116", architecture="sm89")
    with pytest.raises(EngineError, match=r"built by tensorrt_rtx 1.7.1.116; 1.7.2.1 is installed"):
        trust.check_runtime(exact, "1.7.2.1", card("sm89"))
    with pytest.raises(EngineError, match="built for sm89; this machine has sm120"):
        trust.check_runtime(exact, "1.7.1.116", card("sm120"))
    trust.check_runtime(exact, "1.7.1.116", card("sm89"))


@pytest.mark.parametrize(
    ("built", "gpu", "expected"),
    [
        ("any", None, True), ("any", "sm75", True), ("sm89", "sm89", True), ("sm89", "sm120", False),
        ("sm89", None, False), ("sm80+", "sm75", False), ("sm80+", "sm80", True), ("sm80+", "sm90", True),
        ("sm80+", "sm120", True), ("sm80+", None, False), ("+", "sm90", False), ("sm80+x", "sm90", False),
    ],
)  # fmt: skip
def test_an_engine_runs_on_what_it_was_built_for(built: str, gpu: str | None, expected: bool) -> None:
    here = card(gpu) if gpu else None
    plan = record("denoiser", runtime="tensorrt", runtime_version="11.4", architecture=built)
    assert trust.runs_on(plan, here) is expected
    if expected:
        trust.check_runtime(plan, "11.4", here)
    else:
        machine = re.escape(f"has {gpu}" if gpu else "has no NVIDIA GPU (or no driver)")
        with pytest.raises(EngineError, match=f"built for .*; this machine {machine}: build the engines for it"):
            trust.check_runtime(plan, "11.4", here)


def test_an_engine_for_one_card_is_refused_on_another_of_its_architecture(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before TensorRT sees a byte; a set that names no card, as those made before, is for its architecture."""
    monkeypatch.setattr(sets, "runtime_version", lambda runtime: "11.4")
    monkeypatch.setattr(tensorrt, "load_tensorrt", lambda runtime: pytest.fail("it was opened"))
    monkeypatch.setattr(trust, "local_gpu", lambda: card("sm89", "NVIDIA GeForce RTX 4090"))
    plan = {"runtime": "tensorrt", "runtime_version": "11.4", "architecture": "sm89"}
    folder = make_set(gpu="NVIDIA L4", **plan)
    assert read_manifest(folder).network("denoiser").gpu == "NVIDIA L4"
    with pytest.raises(
        EngineError, match=r"for NVIDIA L4 alone; this machine has NVIDIA GeForce RTX 4090: .*--hardware-"
    ):
        open_engines(folder)
    found = read_manifest(folder).network("denoiser")
    assert trust.runs_on(found, card("sm89", "NVIDIA L4"))
    assert not trust.runs_on(found, None)
    with pytest.raises(EngineError, match="built for sm89; this machine has sm120"):
        trust.check_runtime(found, "11.4", card("sm120"))
    edit(folder, lambda m: m["networks"]["denoiser"].pop("gpu"))
    assert trust.runs_on(read_manifest(folder).network("denoiser"), card("sm89"))


def test_an_engine_for_later_cards_says_so() -> None:
    later = record("denoiser", runtime="tensorrt", runtime_version="11.4", architecture="sm80+")
    with pytest.raises(EngineError, match="built for sm80 or later; this machine has sm75"):
        trust.check_runtime(later, "11.4", card("sm75"))


def test_cuda_is_never_replaced_by_the_cpu(make_set: MakeSet, tmp_path: Path) -> None:
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(EngineError, match="asks for CUDAExecutionProvider; this onnxruntime has"):
        OnnxRuntimeSession(linear_model(tmp_path / "m.onnx"), "denoiser", 1, CUDA)
    folder = make_set()
    edit(folder, lambda m: m.update(target="cuda"))
    with pytest.raises(EngineError, match="asks for CUDAExecutionProvider"):
        open_engines(folder)


def test_signature_is_wanted_when_a_key_is_given(make_set: MakeSet) -> None:
    folder = make_set()
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    with pytest.raises(EngineError, match="has no signature"):
        open_engines(folder, public_key=public)
    other = X25519PrivateKey.generate()
    with pytest.raises(EngineError, match="not an Ed25519 private key: it is a key of another kind"):
        trust.sign(folder, other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    unknown = curve.replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030177"))
    pem = b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(unknown) + b"-----END PRIVATE KEY-----\n"
    with pytest.raises(EngineError, match=r"not an Ed25519 private key: .* is not supported"):
        trust.sign(folder, pem)
    trust.sign(folder, key.private_bytes_raw())
    open_engines(folder, threads=1, public_key=public).close()
    with pytest.raises(EngineError, match="does not match the public key"):
        open_engines(folder, public_key=Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    pem = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(EngineError, match="another kind than Ed25519"):
        open_engines(folder, public_key=pem)
    edit(folder, lambda m: m.update(target="cuda"))
    with pytest.raises(EngineError, match="does not match the public key"):
        open_engines(folder, public_key=public)
    (folder / "manifest.json.sig").write_text("not base64 at all!")
    with pytest.raises(EngineError, match="cannot be read"):
        open_engines(folder, public_key=public)


def test_opening_a_set_imports_neither_torch_nor_onnx(make_set: MakeSet) -> None:
    code = (
        "import sys; from dreamactor.engines import open_engines; open_engines(sys.argv[1], 1);"
        "print([m for m in ('torch', 'onnx', 'modelopt', 'tensorrt', 'tensorrt_rtx') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, str(make_set())], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
