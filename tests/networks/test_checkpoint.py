"""Checkpoints: what is written is what is read, and what does not fit is named."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamactor.errors import DreamActorError, InputError
from dreamactor.networks import StoredWeights, build, load, save
from dreamactor.presets import PRESETS, Preset, preset
from tests.disk import full_disk

TINY = preset("tiny")


def test_round_trip_in_half_precision(tmp_path: Path) -> None:
    networks = build(TINY, seed=7)
    save(networks, tmp_path)
    loaded = load(tmp_path, TINY).state_dict()
    for name, value in networks.state_dict().items():
        torch.testing.assert_close(loaded[name], value.half().float(), atol=0, rtol=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_what_half_precision_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    networks = build(TINY)
    with torch.no_grad():
        networks.transformer.final.bias[0] = 1e5
    with pytest.raises(
        InputError, match=r"transformer\.final\.bias has values beyond torch.float16: save it with dtype"
    ):
        save(networks, tmp_path)
    assert not any(tmp_path.iterdir())
    save(networks, tmp_path, torch.float32)
    assert load(tmp_path).transformer.final.bias[0] == 1e5


def test_same_seed_same_weights() -> None:
    first, second, other = (build(TINY, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_mismatch_names_the_keys(tmp_path: Path) -> None:
    save(build(TINY), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["transformer.extra"] = state.pop("transformer.patchify.bias")
    state["transformer.final.bias"] = torch.zeros(3)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as raised:
        load(tmp_path)
    for part in ("transformer.patchify.bias is missing", "transformer.extra is not part", "final.bias is (3,)"):
        assert part in str(raised.value)


def test_weights_that_stay_on_disk_are_those_that_are_loaded(tmp_path: Path) -> None:
    save(build(TINY, seed=3), tmp_path, torch.bfloat16)
    stored, loaded = StoredWeights(tmp_path, TINY), load(tmp_path).state_dict()
    assert (stored.preset, set(stored), len(stored)) == (TINY, set(loaded), len(loaded))
    for name, value in loaded.items():
        assert stored[name].dtype == torch.float32
        assert torch.equal(stored[name], value)
    with pytest.raises(KeyError):
        stored["vae.nothing"]


def test_another_presets_checkpoint_is_refused(tmp_path: Path) -> None:
    save(build(TINY), tmp_path)
    with pytest.raises(InputError, match="'tiny' checkpoint, not 'puppet'"):
        load(tmp_path, preset("puppet"))


@pytest.mark.parametrize(("part", "sizes"), [("vae", {"patch": 3}), ("transformer", {"num_heads": 128})])
def test_sizes_that_no_networks_have_are_refused(tmp_path: Path, part: str, sizes: dict[str, int]) -> None:
    save(build(TINY), tmp_path)
    described = TINY.to_dict()
    described[part] |= sizes
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"config\.json describes networks that cannot be made"):
        load(tmp_path)
    described[part] |= dict.fromkeys(sizes, -1)
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"config\.json does not describe a preset: .* -1, which is no int"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("spoilt", "sentence"),
    [
        (torch.full((4,), 3), "is I64, expected floating point"),
        (torch.tensor([1.0, math.nan, 0.0, 0.0]), r"has values that are not finite \(vae.encoder.*: it comes of"),
    ],
)
def test_weights_that_are_no_numbers_to_compute_with_are_named(
    tmp_path: Path, spoilt: torch.Tensor, sentence: str
) -> None:
    save(build(TINY), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = next(name for name, value in state.items() if name.startswith("vae.encoder") and value.numel() % 4 == 0)
    state[name] = spoilt.repeat(state[name].numel() // 4).reshape(state[name].shape)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=sentence):
        load(tmp_path)


def test_others_may_read_a_checkpoint_where_the_system_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save(build(TINY), tmp_path)
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "config.json": 0o644, "model.safetensors": 0o644,
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["truncated", "pickle", "absent", "no config", "config not JSON", "not a preset"])
def test_unreadable_checkpoints(tmp_path: Path, damage: str) -> None:
    save(build(TINY), tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "pickle":
        torch.save({"a": torch.zeros(2)}, weights)
    elif damage == "absent":
        weights.unlink()
    elif damage == "no config":
        config.unlink()
    else:
        config.write_text("{" if damage == "config not JSON" else json.dumps({**TINY.to_dict(), "vae": 3}))
    with pytest.raises(InputError):
        load(tmp_path)


def test_a_full_disk_is_said_and_the_checkpoint_before_is_kept(tmp_path: Path) -> None:
    save(build(TINY, seed=1), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    refused = pytest.raises(DreamActorError, match=r"cannot be written .*: free some space or give another folder")
    with refused, full_disk(4096):
        save(build(TINY, seed=2), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(DreamActorError, match=r"/dev/null/x cannot be written"):
        save(build(TINY), "/dev/null/x")


def test_preset_survives_json() -> None:
    for name, described in PRESETS.items():
        assert Preset.from_dict(json.loads(json.dumps(described.to_dict()))) == described == preset(name)
        assert described.transformer.dim % described.transformer.num_heads == 0
    with pytest.raises(InputError, match="does not fit"):
        Preset.from_dict({**preset("tiny").to_dict(), "colour": 1})
    with pytest.raises(InputError, match="no solver 'heun'; choose one of euler, multistep"):
        Preset.from_dict({**preset("tiny").to_dict(), "solver": "heun"})
    assert dataclasses.is_dataclass(preset("tiny"))


@pytest.mark.parametrize(
    ("part", "values", "reason"),
    [
        ("", {"height": "64"}, "height '64', which is no int"),
        ("", {"height": -64}, "height -64"),
        ("", {"height": 72}, "72x64.*multiples of 16"),
        ("", {"segment_frames": 12}, "segments of 12 frames"),
        ("", {"segment_frames": 1}, "segments of 1 frames.*from 5 on"),
        ("", {"steps": True}, "steps True"),
        ("", {"steps": 0}, "steps 0, which is no int of any use"),
        ("", {"fps": 0}, "fps 0"),
        ("", {"guidance_scale": float("nan")}, "guidance_scale nan"),
        ("", {"vae": [1]}, "does not fit"),
        ("vae", {"channels": [16, 1.5]}, r"channels \(16, 1.5\), which is no tuple"),
        ("transformer", {"dim": 64.0}, "dim 64.0"),
    ],
)
def test_a_description_of_no_sense_is_refused(part: str, values: dict, reason: str) -> None:
    described = preset("tiny").to_dict()
    (described[part] if part else described).update(values)
    with pytest.raises(InputError, match=reason):
        Preset.from_dict(described)
