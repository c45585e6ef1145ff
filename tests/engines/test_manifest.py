"""Manifests that are broken, of another project or of other shapes than their preset are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dreamactor.engines import (
    TensorSpec,
    open_engines,
    read_manifest,
    sets,
    trust,
    write_set,
)
from dreamactor.errors import EngineError
from dreamactor.presets import preset

from .conftest import MakeSet, edit


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
        inputs, outputs = trust.specs(manifest.preset, name)
        assert found.inputs == inputs  # sizes that the preset leaves open are open in the graph
        assert found.outputs == outputs
    wide = replace(manifest.preset, face_encoder=replace(manifest.preset.face_encoder, out_channels=48))
    assert trust.specs(wide, "face_motion_encoder")[1] == (TensorSpec("motion", "float32", (1, -1, 48)),)


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
