"""What the stages say to each other comes out as it went in."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from dreamactor.errors import InputError
from dreamactor.pipeline import Event, Options
from dreamactor.pipeline.prepare import Framing, PreparedClip
from dreamactor.serving.problem import Problem
from dreamactor.serving.wire import DENOISED, PREPARED, Passed, Prepared, Request, pack_bytes

FRAMING = Framing(fps=24000 / 1001, frames=7, crop=(1, 2, 30, 40))
EVENT = Event("denoise", 1, 2, 3, 4, 1 / 3, "a sentence")


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def prepared_clip() -> PreparedClip:
    return PreparedClip(
        reference_latent=numbers(2, 16, 4, 5), reference_pose=numbers(2, 16, 4, 5), pose_latent=numbers(16, 3, 4, 5),
        motion=numbers(9, 8), view_pose=numbers(0, 16, 4, 5), view_motion=numbers(0, 8), framing=FRAMING,
    )  # fmt: skip


def test_prepared_clip_comes_back_whole() -> None:
    sent = Prepared(EVENT, "job", Options(seed=4), b"clip\0\0", prepared_clip())
    got = Prepared.from_arrays(sent.to_arrays())
    assert (got.event, got.job, got.options, got.driving, got.problem) == (
        EVENT,
        "job",
        Options(seed=4),
        b"clip\0\0",
        None,
    )
    assert got.clip is not None
    assert got.clip.framing == FRAMING
    for field in fields(PreparedClip):
        value = getattr(sent.clip, field.name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(got.clip, field.name), value)


@pytest.mark.parametrize("name", ["event", "job", "problem", "framing"])
@pytest.mark.parametrize("text", [b"\xff", b"nothing", b"[]", b'{"x": 1}', b"[" * 100_000])
def test_what_a_stranger_says_between_the_stages_is_refused_by_name(name: str, text: bytes) -> None:
    for message in (Prepared(EVENT, "job"), Passed(EVENT, "job")):
        arrays = message.to_arrays()
        (place,) = [key for key in arrays if key.endswith(f"_{name}")]
        arrays[place] = pack_bytes(text)
        if name == "job" and text != b"\xff":
            type(message).from_arrays(arrays)  # any text may be a token, which then is none
            continue
        with pytest.raises(InputError, match=f"{place} cannot be read|framing cannot be read"):
            type(message).from_arrays(arrays)


@pytest.mark.parametrize("frames", [-5, 0, 30_000_000])
def test_number_of_frames_is_bounded(frames: int) -> None:
    sent = Passed(EVENT, "job", framing=replace(FRAMING, frames=frames)).to_arrays()
    with pytest.raises(InputError, match=f"The framing has {frames} frames; from 1 to 1000000 are taken"):
        Passed.from_arrays(sent)


def test_event_alone_travels_with_every_tensor_of_the_configuration() -> None:
    for message, ports in ((Prepared(EVENT, "job"), PREPARED), (Passed(EVENT, "job"), DENOISED)):
        arrays = message.to_arrays()
        assert list(arrays) == [port.name for port in ports]
        for port in ports:
            assert len(arrays[port.name].shape) == len(port.shape)
            assert all(want in (-1, have) for want, have in zip(port.shape, arrays[port.name].shape, strict=True))
    assert Prepared.from_arrays(Prepared(EVENT, "job").to_arrays()).clip is None


def test_latent_framing_and_problem_come_back() -> None:
    sent = Passed(EVENT, "job", numbers(16, 2, 4, 5), FRAMING, b"clip", Problem("INTERNAL", "why"))
    got = Passed.from_arrays(sent.to_arrays())
    assert (got.framing, got.driving, got.problem, got.last) == (FRAMING, b"clip", Problem("INTERNAL", "why"), True)
    np.testing.assert_array_equal(got.latent, sent.latent)


@pytest.mark.parametrize(
    "change",
    [{"crop": (0, 0, 10**6, 64)}, {"crop": (0, 0, 64)}, {"crop": (0, 0, -4, 64)}, {"fps": float("nan")}, {"fps": 0}],
)
def test_framing_out_of_range_is_refused(change: dict[str, Any]) -> None:
    arrays = Passed(EVENT, "job", framing=replace(FRAMING, **change)).to_arrays()
    with pytest.raises(InputError, match="The framing"):
        Passed.from_arrays(arrays)


def test_request_without_options_has_the_defaults() -> None:
    arrays = {"REFERENCE_IMAGE": pack_bytes(b"a\0", b"b"), "DRIVING_VIDEO": pack_bytes(b"c")}
    assert Request.from_arrays(arrays) == Request((b"a\0", b"b"), b"c", Options())


@pytest.mark.parametrize("missing", ["REFERENCE_IMAGE", "DRIVING_VIDEO"])
def test_missing_input_is_named(missing: str) -> None:
    arrays = Request((b"a",), b"c", Options()).to_arrays()
    del arrays[missing]
    with pytest.raises(InputError, match=missing):
        Request.from_arrays(arrays)
