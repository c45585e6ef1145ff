from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dreamactor.training.data import PACKED, PACKED_SHARE, ClipStore
from dreamactor.training.packed import PackedFrames, create_packed, write_packed

SHAPE = (9, 5, 12, 16, 6)  # clips, frames, height, width, channels


@pytest.fixture
def pictures() -> np.ndarray:
    rng = np.random.default_rng(0)
    mostly_black = rng.integers(0, 256, SHAPE, np.uint8) * (rng.random(SHAPE) < 0.1)
    return mostly_black.astype(np.uint8)


def test_what_several_writers_wrote_is_read_again(tmp_path: Path, pictures: np.ndarray) -> None:
    create_packed(tmp_path, "maps", SHAPE[0], SHAPE[1])
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda clip: write_packed(tmp_path, "maps", clip, pictures[clip]), reversed(range(SHAPE[0]))))

    packed = PackedFrames(tmp_path, "maps", SHAPE[2:])

    assert all(np.array_equal(packed[clip, :], pictures[clip]) for clip in range(SHAPE[0]))
    assert np.array_equal(packed[4, 1:3], pictures[4, 1:3])
    assert np.array_equal(packed[7, [4, 0]], pictures[7, [4, 0]])
    assert (tmp_path / "maps.zlib").stat().st_size < pictures.nbytes / 2


def test_control_maps_of_a_store_take_the_room_that_is_asked_for(clips: Path) -> None:
    store = ClipStore(clips / "clips_train")
    raw = store.count * sum(PACKED.values()) * store.height * store.width * 6

    assert sum((store.folder / f"{name}.zlib").stat().st_size for name in PACKED) < PACKED_SHARE * raw
