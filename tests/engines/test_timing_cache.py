"""TensorRT's timings between builds: whose they are, and what may go wrong with their file without costing an engine.

TensorRT itself runs on no CPU; what it answers is played by two small classes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from dreamactor.engines import builder
from dreamactor.engines.build_worker import _keep_timing_cache, _use_timing_cache

OF_ANOTHER_CARD = b"another card"


@dataclass
class Cache:
    content: bytes

    def serialize(self) -> bytes:
        return self.content


class Config:
    """Has no cache for bytes that are none, and refuses that of another card as TensorRT does, by returning False."""

    def __init__(self, cache: Cache | None = None) -> None:
        self.cache = cache

    def create_timing_cache(self, content: bytes) -> Cache | None:
        return None if content == b"damaged" else Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        if cache.content == OF_ANOTHER_CARD and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache


@pytest.mark.parametrize(
    ("kept", "used"), [(b"timings", b"timings"), (OF_ANOTHER_CARD, b""), (b"damaged", b""), (None, b"")]
)
def test_what_is_refused_is_replaced_by_an_empty_one(tmp_path: Path, kept: bytes | None, used: bytes) -> None:
    if kept is not None:
        (tmp_path / "cache").write_bytes(kept)
    config = Config()
    _use_timing_cache(config, tmp_path / "cache")
    assert config.cache == Cache(used)


def test_builds_at_the_same_time_do_not_clash(tmp_path: Path) -> None:
    contents = [bytes([number]) * 50_000 for number in range(8)]

    def build(content: bytes) -> list[str]:
        return [said for _ in range(40) for said in _keep_timing_cache(Config(Cache(content)), tmp_path / "t/cache")]

    with ThreadPoolExecutor(len(contents)) as pool:
        assert list(pool.map(build, contents)) == [[]] * len(contents)
    assert (tmp_path / "t/cache").read_bytes() in contents
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["cache"]


def test_a_file_that_cannot_be_written_is_said_and_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (said,) = _keep_timing_cache(Config(Cache(b"timings")), tmp_path / "file/cache")
    assert "cannot be written" in said
    assert f"{tmp_path}/file" in said
    assert _keep_timing_cache(Config(), tmp_path / "cache") == []


def test_cards_of_one_architecture_have_a_file_each() -> None:
    path = Path("timing/sm89-11.4.0.106.cache")
    found = [builder._of_card(path, name).name for name in ("NVIDIA L4", "NVIDIA GeForce RTX 4090")]
    assert found == ["sm89-11.4.0.106-NVIDIA_L4.cache", "sm89-11.4.0.106-NVIDIA_GeForce_RTX_4090.cache"]
