"""Keys of the store: what they hold, and the memory of hashes behind them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest

from dreamactor.engines.builder import BuildOptions
from dreamactor.engines.gpu import Gpu
from dreamactor.engines.target import Target, parse_target
from dreamactor.errors import InputError
from dreamactor.presets import preset
from dreamactor.production import keys as keys_module
from dreamactor.production.keys import _EXPORT, _JUDGE, _LOWER, _PLUGIN, Keys, _file_hash
from dreamactor.production.make import _set_key, make_engines
from dreamactor.production.request import Request, make_request


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """One whose weights are a word: keys read no more of them than their hash."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(preset("tiny").to_dict()))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("kernels/reference.py", _EXPORT),  # its norms are exported into the ONNX
        ("dreamactor/presets.py", _EXPORT),
        ("dreamactor/fidelity.py", _LOWER),
        ("export/recipe.py", _LOWER),
        ("dreamactor/production/example.py", _JUDGE),
        ("dreamactor/production/gate.py", _JUDGE),
        ("engines/verify.py", _JUDGE),
        *((f"engines/{name}.py", _JUDGE) for name in ("tensorrt", "cuda", "onnxruntime", "sets")),
        ("engines/tensorrt.py", _PLUGIN),  # in which our kernels are timed
    ],
)
def test_code_that_shapes_the_result_is_in_its_key(path: str, group: tuple[str, ...]) -> None:
    assert any(fnmatch(path, pattern) for pattern in group)


def test_every_pattern_of_code_finds_a_file(tmp_path: Path) -> None:
    groups = [value for name, value in vars(keys_module).items() if name.startswith("_") and isinstance(value, tuple)]
    assert len(groups) == 7
    for pattern in (pattern for group in groups for pattern in group):
        assert keys_module.paths.shipped(pattern), pattern


def test_engines_that_were_timed_on_one_gpu_are_not_another_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request("tiny", "fp16", "sm89", output=tmp_path / "set", store=tmp_path / "store")

    def key(card: str, target: str) -> object:
        monkeypatch.setattr("dreamactor.engines.target.local_gpu", lambda: Gpu(card, "sm89", 2**34, "13.0"))
        keys = Keys(replace(request, target=parse_target(target)))
        return keys.engine("denoiser", keys.precision("denoiser"), "11.4")

    assert key("NVIDIA L4", "tensorrt") != key("NVIDIA L40S", "tensorrt")
    assert key("NVIDIA L4", "rtx") == key("NVIDIA L40S", "rtx")  # chooses its kernels where it runs


@pytest.mark.parametrize(
    "change",
    [
        *("weights", "preset", "precision", "put_back", "options", "shapes", "runtime", "samples"),
        *("torch", "modelopt", "onnxruntime"),
    ],
)
def test_all_that_an_engine_is_made_from_is_in_its_key(
    change: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not would be found in the store though it was made from something else."""
    request = make_request("tiny", "int8", "sm89", checkpoint, output=tmp_path / "set", store=tmp_path / "store")

    def key(request: Request, put_back: tuple[str, ...] = (), runtime: str = "11.4") -> object:
        keys = Keys(request)
        return keys.engine("denoiser", keys.precision("denoiser", put_back), runtime)

    before = key(request)
    assert before == key(request)
    if change == "weights":
        (checkpoint / "model.safetensors").write_bytes(b"other weights")
    elif change in ("torch", "modelopt", "onnxruntime"):
        installed = keys_module.version
        other = {"modelopt": "nvidia-modelopt"}.get(change, change)
        monkeypatch.setattr(keys_module, "version", lambda name: "0" if name == other else installed(name))
    wider = replace(request.preset.transformer, face_window=2)  # the same weights in another graph
    others = {
        "preset": replace(request, preset=replace(request.preset, transformer=wider)),
        "precision": replace(request, precision="fp8"),
        "options": replace(request, build=BuildOptions(weight_streaming=True)),
        "shapes": replace(request, ranges=replace(request.ranges, references=2)),
        "samples": replace(request, samples=3),
    }
    after = key(
        others.get(change, request), ("a",) if change == "put_back" else (), "11.5" if change == "runtime" else "11.4"
    )
    assert after != before


@pytest.mark.parametrize(
    ("group", "changed"),
    [
        ("export", {"onnx", "source", "samples", "ranges", "precision", "sensitivity", "video", "engine", "set"}),
        ("lower", {"ranges", "precision", "sensitivity", "video", "engine", "set"}),
        ("rewrite", {"source", "precision", "sensitivity", "video", "engine", "set"}),
        ("capture", {"samples", "ranges", "precision", "sensitivity", "video", "engine", "set"}),
        ("build", {"engine", "set"}),
        ("plugin", set()),  # the CPU has none
        ("judge", {"set"}),
    ],
)
def test_code_is_in_the_keys_of_all_that_it_makes_and_no_other(
    group: str, changed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request("tiny", "int8", "cpu", output=tmp_path / "set", store=tmp_path / "store")

    def found() -> dict[str, object]:
        keys = Keys(request)
        lowered = keys.precision("denoiser")
        return {
            "onnx": keys.onnx("denoiser"), "source": keys.source("denoiser"), "samples": keys.samples(),
            "ranges": keys.ranges("denoiser"), "precision": lowered, "sensitivity": keys.sensitivity("denoiser"),
            "video": keys.video({"denoiser": lowered}), "engine": keys.engine("denoiser", lowered, "1.7"),
            "set": _set_key(keys),
        }  # fmt: skip

    before, own = found(), keys_module._source_hash
    patterns = getattr(keys_module, f"_{group.upper()}")
    monkeypatch.setattr(keys_module, "_source_hash", lambda asked: "other" if asked == patterns else own(asked))
    after = found()
    assert {name for name in before if before[name] != after[name]} == changed


def test_inputs_are_recorded_for_each_checkpoint_and_videos_for_each_source(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request("tiny", "int8", "sm89", checkpoint, output=tmp_path / "set", store=tmp_path / "store")
    samples, video = Keys(request).samples(), Keys(request).video({})
    (checkpoint / "model.safetensors").write_bytes(b"other weights")
    assert Keys(request).samples() != samples
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    assert Keys(request).video({}) == video
    monkeypatch.setattr(keys_module, "origin", lambda: "elsewhere")
    assert Keys(request).video({}) != video


def test_a_set_for_another_target_is_another(tmp_path: Path) -> None:
    request = make_request("tiny", "fp16", "cpu", output=tmp_path / "set", store=tmp_path / "store")
    other = replace(request, target=Target("cuda", "onnxruntime", "any"))
    assert _set_key(Keys(request)) != _set_key(Keys(other))


def test_hashes_are_remembered_where_they_can_be(tmp_path: Path) -> None:
    weights, store = tmp_path / "weights", tmp_path / "store"
    weights.write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    assert _file_hash(weights, store) == expected
    assert [path.name for path in store.iterdir()] == ["hashes.json"]
    memory = json.loads((store / "hashes.json").read_text())
    (store / "hashes.json").write_text(json.dumps(dict.fromkeys(memory, "remembered")))
    assert _file_hash(weights, store) == "remembered"
    content = weights.read_bytes()
    weights.write_bytes(content[::-1])  # of equal length, later
    os.utime(weights, (1, 1))
    assert _file_hash(weights, store) == hashlib.sha256(content[::-1]).hexdigest()
    weights.write_bytes(content)
    (store / "hashes.json").write_text("3")
    assert _file_hash(weights, store) == expected
    assert _file_hash(weights, Path("/dev/null/store")) == expected  # nothing can be kept there


def test_files_of_equal_name_size_and_time_are_told_apart(tmp_path: Path) -> None:
    found = set()
    for folder in ("a", "b"):
        path = tmp_path / folder / "model.safetensors"
        path.parent.mkdir()
        path.write_text(folder)
        os.utime(path, (1, 1))
        found.add(_file_hash(path, tmp_path / "store"))
    assert len(found) == 2


def test_weights_that_change_during_a_build_are_not_those_of_the_set(checkpoint: Path, tmp_path: Path) -> None:
    request = make_request("tiny", "fp32", "cpu", checkpoint, output=tmp_path / "set", store=tmp_path / "store")
    keys = Keys(request)
    before = _set_key(keys)
    (checkpoint / "model.safetensors").write_bytes(b"other weights")
    assert _set_key(keys) == before
    assert _set_key(Keys(request)) != before


@pytest.mark.parametrize(("precision", "target"), [("int8", "sm89"), ("int8", "cpu")])
def test_every_key_of_one_network_names_it(tmp_path: Path, precision: str, target: str) -> None:
    """A plan says how long the same stage of the same network last took."""
    keys = Keys(make_request("tiny", precision, target, output=tmp_path / "set", store=tmp_path / "store"))
    lowered = keys.precision("denoiser")
    found = [keys.onnx("denoiser"), keys.ranges("denoiser"), lowered, keys.sensitivity("denoiser")]
    found += [keys.engine("denoiser", lowered, "1.7"), *([keys.source("denoiser")] if keys.rewrites else [])]
    assert [key["network"] for key in found] == ["denoiser"] * (6 if keys.rewrites else 5)


def test_our_kernels_in_an_engine_are_of_the_triton_that_compiled_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_request("tiny", "fp16", "sm89", output=tmp_path / "set", store=tmp_path / "store")

    def key(triton: str, target: Target) -> object:
        monkeypatch.setattr(keys_module, "version", lambda package: triton if package == "triton" else "1")
        return Keys(replace(request, target=target)).engine("denoiser", {}, "11.4")

    native, rtx = Target("tensorrt", "tensorrt", "sm89"), Target("rtx", "tensorrt_rtx", "sm89")
    assert key("3.7.1", native) != key("3.8.0", native)
    assert key("3.7.1", rtx) == key("3.8.0", rtx)  # which has no plugins


@pytest.mark.parametrize(
    ("precision", "rtx", "native"),
    [
        ("fp32", {"fp16"}, {"fp16", "bf16"}),
        ("fp16", {"fp16"}, {"fp16", "bf16"}),
        ("bf16", {"fp16"}, {"fp16", "bf16"}),
        ("fp8", {"fp32", "fp16", "bf16"}, {"fp32", "fp16", "bf16"}),
    ],
)
def test_attention_stays_an_operator_in_the_types_that_a_builder_takes(
    tmp_path: Path, precision: str, rtx: set[str], native: set[str]
) -> None:
    """What is quantised is put back to FP16."""
    request = make_request("tiny", precision, "sm89", output=tmp_path / "set", store=tmp_path / "store")
    keys = {name: Keys(replace(request, target=Target("t", name, "sm89"))) for name in ("tensorrt_rtx", "tensorrt")}
    assert {name: set(found.attention_types) for name, found in keys.items()} == {
        "tensorrt_rtx": rtx,
        "tensorrt": native,
    }
    assert (len({json.dumps(found.precision("denoiser")) for found in keys.values()}) == 2) == (rtx != native)


def test_turing_has_the_recipes_that_rtx_can_build_for_it(tmp_path: Path) -> None:
    request = make_request("tiny", "fp16", "sm75", output=tmp_path / "set", store=tmp_path / "store")
    runtimes = {name: Target(name, name, "sm75") for name in ("tensorrt_rtx", "tensorrt")}
    found = {name: Keys(replace(request, target=target)).recipe for name, target in runtimes.items()}
    assert [recipe.fp32_products for recipe in found.values()] == [False, True]
    with pytest.raises(InputError, match="no FP32 matrix products on sm75: use fp16 or int8"):
        make_engines(replace(request, precision="fp32"))
    assert not request.store.exists()
