"""Engine sets are written whole, open only when everything about them is as the manifest says, and say why not."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dreamactor.engines import (
    EngineFiles,
    Manifest,
    TensorSpec,
    open_engines,
    read_manifest,
    sets,
    tensorrt,
    trust,
    write_set,
)
from dreamactor.engines.gpu import Gpu
from dreamactor.engines.onnxruntime import CUDA, OnnxRuntimeSession
from dreamactor.errors import EngineError, InputError
from dreamactor.presets import preset

from .conftest import linear_model, record

MakeSet = Callable[..., Path]


def card(architecture: str, name: str = "NVIDIA Nothing 1") -> Gpu:
    return Gpu(name, architecture, 2**34, "13.0")


def edit(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


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


def test_symbolic_link_out_of_the_folder_is_refused(make_set: MakeSet) -> None:
    folder = make_set()
    outside = (folder / "denoiser.onnx").rename(folder.parent / "outside.onnx")
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
    monkeypatch.setattr(sets, "_installed", lambda runtime: "11.4")
    monkeypatch.setattr(tensorrt, "load_tensorrt", lambda runtime: pytest.fail("it was opened"))
    monkeypatch.setattr(sets, "local_gpu", lambda: card("sm89", "NVIDIA GeForce RTX 4090"))
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


@pytest.mark.parametrize(
    ("key", "index", "change", "reason"),
    [
        (
            "inputs",
            7,
            {"shape": [-1, -1, 64]},
            r"motion float32\[\?, \?, 64\] in its manifest and motion .*32\] in preset",
        ),
        ("inputs", 0, {"shape": [1, 16, -1, -1]}, r"latent float32\[1, 16, \?, \?\] in its manifest"),
        ("inputs", 0, {"dtype": "float16"}, r"latent float16.* in its manifest and latent float32"),
        ("inputs", 3, {"name": "mask"}, r"has no known in its manifest"),
        ("outputs", 1, {"name": "speed"}, r"has speed float32.* in its manifest and no speed in preset tiny"),
    ],
)
def test_a_manifest_of_other_shapes_than_its_preset_s_is_refused_before_a_deserialiser(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch, key: str, index: int, change: dict, reason: str
) -> None:
    folder = make_set()
    open_engines(folder, threads=1).close()
    edit(folder, lambda m: m["networks"]["denoiser"][key][index].update(change))
    monkeypatch.setattr(sets, "_open", lambda *values: pytest.fail("it was opened"))
    with pytest.raises(EngineError, match=f"denoiser .*{reason}"):
        open_engines(folder)


def test_the_shapes_of_a_real_set_are_those_of_its_preset(tiny_engines: Path) -> None:
    manifest = read_manifest(tiny_engines)
    for name, found in manifest.networks.items():
        inputs, outputs = trust.interface(manifest.preset, name)
        assert found.inputs == inputs  # sizes that the preset leaves open are open in the graph
        assert found.outputs == outputs
    wide = replace(manifest.preset, face_encoder=replace(manifest.preset.face_encoder, out_channels=48))
    assert trust.interface(wide, "face_motion_encoder")[1] == (TensorSpec("motion", "float32", (1, -1, 48)),)


def test_an_engine_for_later_cards_says_so() -> None:
    later = record("denoiser", runtime="tensorrt", runtime_version="11.4", architecture="sm80+")
    with pytest.raises(EngineError, match="built for sm80 or later; this machine has sm75"):
        trust.check_runtime(later, "11.4", card("sm75"))


def test_cuda_is_never_replaced_by_the_cpu(tmp_path: Path) -> None:
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(EngineError, match="asks for CUDAExecutionProvider; this onnxruntime has"):
        OnnxRuntimeSession(linear_model(tmp_path / "m.onnx"), "denoiser", 1, CUDA)


def test_signature_is_wanted_when_a_key_is_given(make_set: MakeSet) -> None:
    folder = make_set()
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    with pytest.raises(EngineError, match="has no signature"):
        open_engines(folder, public_key=public)
    trust.sign(folder, key.private_bytes_raw())
    open_engines(folder, threads=1, public_key=public).close()
    with pytest.raises(EngineError, match="does not match the public key"):
        open_engines(folder, public_key=Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    edit(folder, lambda m: m.update(target="cuda"))
    with pytest.raises(EngineError, match="does not match the public key"):
        open_engines(folder, public_key=public)
    (folder / "manifest.json.sig").write_text("not base64 at all!")
    with pytest.raises(EngineError, match="cannot be read"):
        open_engines(folder, public_key=public)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 99, "networks": {}}'])
def test_broken_manifests_are_refused(make_set: MakeSet, text: str) -> None:
    folder = make_set()
    (folder / "manifest.json").write_text(text)
    with pytest.raises(EngineError, match="build the set again"):
        open_engines(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["networks"]["denoiser"].update(files=[]), "denoiser has no files"),
        (lambda m: m["networks"]["denoiser"]["files"][0].update(bytes=float("inf")), "OverflowError"),
        (lambda m: m.update(references=float("inf")), "OverflowError"),
    ],
)
def test_manifests_of_impossible_values_are_refused(
    make_set: MakeSet, change: Callable[[dict], None], reason: str
) -> None:
    folder = make_set()
    edit(folder, change)
    with pytest.raises(EngineError, match=rf"is not an engine manifest \(.*{reason}.*build the set again"):
        open_engines(folder)


def test_a_manifest_nested_without_end_is_refused(make_set: MakeSet) -> None:
    folder = make_set()
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(EngineError, match="build the set again"):
        open_engines(folder)


def test_a_version_of_endless_digits_is_refused(make_set: MakeSet) -> None:
    with pytest.raises(EngineError, match="made for onnxruntime 999"):
        open_engines(make_set(runtime_version="9" * 6000))


def test_folder_without_a_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="make engines"):
        open_engines(tmp_path)


def test_rewriting_a_set_replaces_it_and_a_failed_write_leaves_it(make_set: MakeSet, tmp_path: Path) -> None:
    folder = make_set("denoiser", "vae_decoder")
    again = make_set("denoiser", scale=3.0)
    assert again == folder
    assert list(read_manifest(folder).networks) == ["denoiser"]
    assert sorted(path.name for path in folder.iterdir()) == ["denoiser.onnx", "manifest.json"]
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(EngineError, match="cannot be written"):
        write_set(folder, preset("tiny"), "fp32", "cpu", [EngineFiles(record("denoiser"), (tmp_path / "gone.onnx",))])
    assert (folder / "manifest.json").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def rewrite(folder: Path, complete: Callable[[Path, Manifest], None] = lambda folder, manifest: None) -> None:
    """Writes a set of one linear model to `folder`, which may be there."""
    path = linear_model(folder.parent / "denoiser.onnx", 4.0)
    files = [EngineFiles(record("denoiser"), (path,))]
    write_set(folder, preset("tiny"), "fp32", "cpu", files, complete=complete)


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_set_is_completed_before_it_takes_its_place(make_set: MakeSet) -> None:
    folder = make_set("denoiser", "vae_decoder")

    def verify(fresh: Path, manifest: Manifest) -> None:
        assert list(read_manifest(folder).networks) == ["denoiser", "vae_decoder"]  # still the one before
        assert list(manifest.networks) == ["denoiser"]
        open_engines(fresh, threads=1).close()
        (fresh / "report.json").write_text("{}")

    rewrite(folder, verify)
    assert sorted(path.name for path in folder.iterdir()) == ["denoiser.onnx", "manifest.json", "report.json"]

    def fail(fresh: Path, manifest: Manifest) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EngineError, match=r"cannot be written to .*: No space left on device"):
        rewrite(folder, fail)
    assert (folder / "report.json").exists()
    assert hidden(folder.parent) == []


@pytest.mark.parametrize("interrupted", [1, 2])
def test_interrupted_between_the_two_renames_the_old_set_comes_back(
    make_set: MakeSet, monkeypatch: pytest.MonkeyPatch, interrupted: int
) -> None:
    folder, rename = make_set("denoiser", "vae_decoder"), Path.rename
    calls: list[Path] = []

    def stopped(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == interrupted:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        rewrite(folder)
    assert list(read_manifest(folder).networks) == ["denoiser", "vae_decoder"]
    assert hidden(folder.parent) == []


def test_what_a_killed_writer_left_is_tidied_up_by_the_next(make_set: MakeSet) -> None:
    folder = make_set("denoiser", "vae_decoder")
    code = (
        "import sys; from pathlib import Path; from dreamactor.engines import write_set\n"
        "from dreamactor.presets import preset\n"
        "def wait(folder, manifest): print('writing', flush=True); sys.stdin.read()\n"
        "write_set(sys.argv[1], preset('tiny'), 'fp32', 'cpu', [], complete=wait)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "writing\n"
    make_set("denoiser", folder="other")
    assert len(hidden(folder.parent)) == 1  # its writer lives
    child.kill()
    child.communicate()
    left = folder.with_name(f".set.old.{child.pid}-0123abcd")  # as if it had died between its two renames
    folder.rename(left)
    mine = folder.with_name(".set.new.txt")
    mine.write_text("mine")
    make_set("denoiser", folder="another")
    assert hidden(folder.parent) == [mine.name]
    assert list(read_manifest(folder).networks) == ["denoiser", "vae_decoder"]


def write_again(folder: str) -> None:
    for _ in range(20):
        write_set(folder, preset("tiny"), "fp32", "cpu", [])


def test_writers_at_once_do_not_clash(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_again, args=(str(tmp_path / "set"),)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert read_manifest(tmp_path / "set").networks == {}


def test_a_folder_that_is_no_set_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    path = linear_model(tmp_path / "m.onnx")
    with pytest.raises(EngineError, match="not an engine set"):
        write_set(tmp_path / "mine", preset("tiny"), "fp32", "cpu", [EngineFiles(record("denoiser"), (path,))])
    assert (tmp_path / "mine/thesis.txt").read_text() == "years"


def test_opening_a_set_imports_neither_torch_nor_onnx(make_set: MakeSet) -> None:
    code = (
        "import sys; from dreamactor.engines import open_engines; open_engines(sys.argv[1], 1);"
        "print([m for m in ('torch', 'onnx', 'modelopt', 'tensorrt', 'tensorrt_rtx') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, str(make_set())], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_another_projects_manifest_is_no_set(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = tmp_path / "web app"
    app.mkdir()
    (app / "manifest.json").write_text('{"name": "app", "icons": []}')
    monkeypatch.chdir(app)
    for folder in (app, Path()):
        with pytest.raises(EngineError, match="is not an engine set"):
            write_set(folder, preset("tiny"), "fp32", "cpu", [])
    assert [path.name for path in app.iterdir()] == ["manifest.json"]


def test_networks_of_other_names_are_refused(make_set: MakeSet) -> None:
    folder = make_set("denoiser")
    edit(folder, lambda m: m["networks"].update({"/tmp/elsewhere": m["networks"]["denoiser"]}))
    with pytest.raises(EngineError, match="no network is called '/tmp/elsewhere'"):
        read_manifest(folder)


def test_the_most_references_are_recorded(tmp_path: Path) -> None:
    write_set(tmp_path / "set", preset("tiny"), "fp32", "sm89", [], references=4)
    assert read_manifest(tmp_path / "set").references == 4
    edit(tmp_path / "set", lambda m: m.pop("references"))  # as sets made before have it
    assert read_manifest(tmp_path / "set").references == 8
