"""The pipeline as a library: whoever calls it, and from whichever thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dreamactor.errors import InputError
from dreamactor.pipeline import Animator, Options


def test_callers_of_several_threads_wait_for_each_other(tiny_engines: Path, portrait: bytes, clip: bytes) -> None:
    options = Options(max_frames=5)
    with Animator.open(tiny_engines, threads=1) as animator, ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: animator.animate([portrait], clip, options), range(3)))
    assert len(set(made)) == 1


def test_a_photo_that_is_in_no_list_is_refused(tiny_engines: Path, portrait: bytes, clip: bytes) -> None:
    with Animator.open(tiny_engines) as animator, pytest.raises(InputError, match="put a single one into a list"):
        animator.animate(portrait, clip)  # type: ignore[arg-type]


def test_names_of_files_and_other_options_are_refused(tiny_engines: Path, portrait: bytes, clip: bytes) -> None:
    photo, video = Path("photo.png"), Path("video.mp4")
    with Animator.open(tiny_engines) as animator:
        for references, driving in (([photo], clip), ([portrait], video), ([portrait, "photo.png"], clip)):
            with pytest.raises(InputError, match="are bytes, not the names of files"):
                animator.animate(references, driving)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"given as dreamactor\.pipeline\.Options, not as dict"):
            animator.animate([portrait], clip, {"seed": 1})  # type: ignore[arg-type]
