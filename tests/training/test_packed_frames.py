from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dreamactor.training.packed_frames import PackedFrames

SHAPE = (9, 5, 12, 16, 6)  # clips, frames, height, width, channels


@pytest.fixture
def pictures() -> np.ndarray:
    rng = np.random.default_rng(0)
    mostly_black = rng.integers(0, 256, SHAPE, np.uint8) * (rng.random(SHAPE) < 0.1)
    return mostly_black.astype(np.uint8)


def test_what_several_writers_wrote_is_read_again(tmp_path: Path, pictures: np.ndarray) -> None:
    path, bounds = tmp_path / "maps.zlib", np.zeros((SHAPE[0], SHAPE[1] + 1), np.int64)
    path.touch()
    writer = PackedFrames(path, bounds, SHAPE[2:])
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda clip: writer.write(clip, pictures[clip]), reversed(range(SHAPE[0]))))

    packed = PackedFrames(path, bounds, SHAPE[2:])

    assert all(np.array_equal(packed[clip, :], pictures[clip]) for clip in range(SHAPE[0]))
    assert np.array_equal(packed[4, 1:3], pictures[4, 1:3])
    assert np.array_equal(packed[7, [4, 0]], pictures[7, [4, 0]])
    assert path.stat().st_size < pictures.nbytes / 2
