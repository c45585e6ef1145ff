"""Following one person through real clips."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from dreamactor.errors import InputError
from dreamactor.motion.assets import media_file
from dreamactor.motion.clip import decode_clip
from dreamactor.motion.landmarks import Landmarker, Seen
from dreamactor.motion.look import appearance
from dreamactor.motion.pose import INDEX
from dreamactor.motion.sequence import to_sequence
from dreamactor.motion.track import _Trail, follow
from tests.motion.test_sequence import body


@pytest.fixture(scope="module")
def landmarker() -> Landmarker:
    return Landmarker()


def frames_of(name: str, fps: float = 12, max_frames: int | None = None) -> np.ndarray:
    return decode_clip(media_file(name).read_bytes(), fps, max_frames=max_frames).frames


def test_a_talking_head_is_seen_in_every_frame(landmarker: Landmarker) -> None:
    frames = frames_of("single_face.mp4")
    followed = follow(landmarker, frames, 12)
    assert followed.found.all()
    assert followed.others == 0
    assert all(seen is not None and seen.face is not None for seen in followed.seen)
    poses = to_sequence(followed, *frames.shape[1:3], fps=12)
    assert np.ptp(poses.head_center, axis=0).max() < 40
    assert poses.head_radius == pytest.approx(np.full(len(frames), 118), rel=0.08)
    assert np.abs(np.linalg.det(poses.head_rotation) - 1).max() < 1e-4


def test_a_person_who_leaves_is_held_and_counted_as_lost(landmarker: Landmarker) -> None:
    frames = frames_of("face_noface.mov", 6)
    followed = follow(landmarker, frames, 6)
    there = int(followed.found.sum())
    assert followed.found[:there].all()
    assert 12 <= there <= 16  # the picture cuts away after 2.4 s
    poses = to_sequence(followed, *frames.shape[1:3], fps=6)
    assert np.ptp(poses.head_center[there:], axis=0).max() < 1
    assert (poses.head_confidence > 0).all()


def test_a_short_loss_is_interpolated(landmarker: Landmarker) -> None:
    frames = frames_of("single_face.mp4").copy()
    whole = to_sequence(follow(landmarker, frames, 12), *frames.shape[1:3], fps=12)
    frames[12:16] = 90
    followed = follow(landmarker, frames, 12)
    assert np.flatnonzero(~followed.found).tolist() == [12, 13, 14, 15]
    poses = to_sequence(followed, *frames.shape[1:3], fps=12)
    assert np.abs(poses.head_center - whole.head_center).max() < 12
    neck = poses.confidence[:, INDEX["neck"]]
    assert (neck[11] > 0.3) == (neck[13] > 0.3)


def test_a_clip_without_people_is_an_error(landmarker: Landmarker) -> None:
    with pytest.raises(InputError, match="No person found in the driving clip"):
        follow(landmarker, frames_of("no_face.mp4", 4), 4)


def test_following_can_be_watched_and_stopped(landmarker: Landmarker) -> None:
    seen: list[int] = []

    def stop(done: int) -> None:
        seen.append(done)
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(landmarker, frames_of("single_face.mp4", max_frames=8), 12, on_frame=stop)
    assert seen == [2, 3, 4]


@pytest.mark.parametrize("alone", [True, False])
def test_who_was_lost_for_long_comes_back_anywhere_only_where_nobody_else_is(alone: bool) -> None:
    """All look alike: the picture is black."""
    picture, first, far = np.zeros((240, 600, 3), np.uint8), Seen(body()), Seen(body(shift=300))
    eyes = SimpleNamespace(
        observe=lambda *values: far,
        search_near=lambda *values: [],
        search=lambda picture, smallest: [far.candidate],
    )
    trail = _Trail(cast(Landmarker, eyes), first, appearance(picture, first), 12, alone)
    assert {trail.next(picture, None, thorough=False) for _ in range(12)} == {None}
    assert (trail.next(picture, None, thorough=True) is far) is alone


@pytest.mark.slow
def test_one_of_two_people_is_followed_all_the_way(landmarker: Landmarker) -> None:
    frames = frames_of("demo.mp4")
    followed = follow(landmarker, frames, 12)
    assert followed.others == 1
    poses = to_sequence(followed, *frames.shape[1:3], fps=12)
    neck = poses.joints[followed.found, INDEX["neck"], :2]
    assert np.abs(np.diff(neck, axis=0)).max() < 40  # never jumps to the other
    found = np.flatnonzero(followed.found)
    assert len(found) > 55
    assert found[-1] - found[0] + 1 - len(found) <= 3
    walked = neck[0, 0] - neck[-1, 0]
    assert walked > 600  # she walks from right to left across the picture
