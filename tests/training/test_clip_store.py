"""Clips on disk: what is there is not rendered again, and what is rendered depends on its index alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dreamactor.errors import InputError
from dreamactor.networks import build
from dreamactor.presets import preset
from dreamactor.training import clip_store, parallel, rendering
from dreamactor.training.assets import mocap_folder
from dreamactor.training.characters.clip import Clip, make_clip
from dreamactor.training.characters.scene import Scenes
from dreamactor.training.clip_store import PACKED, ClipStore
from dreamactor.training.device_clips import Clips
from dreamactor.training.latents import encode_clips
from dreamactor.training.rendering import PACKED_SHARE, Order

TINY = preset("tiny")


def order(folder: Path, count: int, width: int = TINY.width) -> Order:
    return Order(folder, "train", count, mocap_folder(), (TINY.height, width), TINY.fps)


def prepare(folder: Path, count: int) -> ClipStore:
    return rendering.prepare(order(folder, count), 1)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the clips that are rendered; the one of index 4 is interrupted, once."""
    indices: list[int] = []

    def watched(scenes: Scenes, index: int) -> Clip:
        indices.append(index)
        if index == 4 and indices.count(4) == 1:
            raise KeyboardInterrupt
        return make_clip(scenes, index)

    monkeypatch.setattr(clip_store, "make_clip", watched)
    return indices


@pytest.fixture
def shorter(clips: Path, tmp_path: Path) -> Path:
    """A folder with the first three clips."""
    return Path(shutil.copytree(clips / "clips_train", tmp_path / "clips_train"))


def test_more_clips_are_added_and_an_interruption_costs_one(shorter: Path, rendered: list[int]) -> None:
    before = np.array(ClipStore(shorter).frames)

    with pytest.raises(KeyboardInterrupt):
        prepare(shorter, 5)
    found = prepare(shorter, 5)

    assert rendered == [3, 4, 4]
    assert np.array_equal(found.frames[:3], before)
    expected = make_clip(Scenes("train", mocap_folder(), TINY.height, TINY.width, TINY.fps), 4)
    for name, value in vars(expected).items():
        read = getattr(found, name)[4, :] if name in PACKED else getattr(found, name)[4]
        assert np.array_equal(read, value, equal_nan=name == "expressions"), name


def test_fewer_clips_are_the_first_of_more(shorter: Path, rendered: list[int]) -> None:
    assert prepare(shorter, 2).count == 2
    assert ClipStore(shorter).count == 3
    assert rendered == []


def test_clips_from_another_first_seed_are_others_and_keep_to_themselves(shorter: Path, tmp_path: Path) -> None:
    later = replace(order(tmp_path / "later", 1), first=2)

    assert np.array_equal(rendering.prepare(later, 1).frames[0], ClipStore(shorter).frames[2])
    with pytest.raises(InputError, match="holds other clips"):
        rendering.prepare(replace(order(shorter, 3), first=2), 1)


def test_only_new_clips_are_encoded(shorter: Path) -> None:
    networks = build(TINY, 0)

    def video(count: int, tag: str) -> np.ndarray:
        clips = Clips(ClipStore(shorter, count=count))
        encode_clips(networks, clips, tag, False, parallel.start())
        assert clips.latents is not None
        assert clips.latents.ready.tolist() == list(range(count))
        return np.array(clips.latents.arrays["video"])

    first = video(2, "a")
    for block in networks.vae.parameters():
        block.data.mul_(0.5)  # what is encoded from here on differs
    more, other = video(3, "a"), video(3, "b")

    assert np.array_equal(more[:2], first)
    assert not np.array_equal(other[:2], first)
    assert np.array_equal(other[2], more[2])


def test_a_folder_without_clips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no prepared clips"):
        ClipStore(tmp_path)


def test_control_maps_take_no_more_room_than_was_asked_for(clips: Path) -> None:
    found = ClipStore(clips / "clips_train")
    raw = found.count * sum(PACKED.values()) * found.height * found.width * 6

    assert sum((found.folder / f"{name}.zlib").stat().st_size for name in PACKED) < PACKED_SHARE * raw
