"""The stages on the real tiny engines, with motion inputs made of numbers: what they promise each other."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamactor.engines import Engines, open_engines
from dreamactor.errors import InputError
from dreamactor.motion.limits import Limits
from dreamactor.motion.pose import extreme_yaws
from dreamactor.motion.prepare import MotionInputs
from dreamactor.pipeline.denoise import Denoised, denoise
from dreamactor.pipeline.finish import Finisher
from dreamactor.pipeline.options import Options
from dreamactor.pipeline.prepare import PreparedClip, encode, prepare
from dreamactor.pipeline.segments import plan
from dreamactor.pipeline.solver import schedule
from dreamactor.presets import Preset, preset

TINY = preset("tiny")
OPTIONS = Options(steps=2, seed=3)


def motion_inputs(frames: int = 21, references: int = 1) -> MotionInputs:
    draw = np.random.default_rng(1)

    def pixels(*shape: int) -> np.ndarray:
        return draw.integers(0, 256, shape, dtype=np.uint8)

    return MotionInputs(
        references=pixels(references, 64, 64, 3), reference_controls=pixels(references, 64, 64, 6),
        controls=pixels(frames, 64, 64, 6), faces=pixels(frames, 224, 224, 3), fps=12.0, crop=(4, 0, 56, 64),
        notes=(), yaw=np.linspace(-1, 1, frames, dtype=np.float32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def engines(tiny_engines: Path) -> Iterator[Engines]:
    with open_engines(tiny_engines) as opened:
        yield opened


@pytest.fixture(scope="module")
def clip(engines: Engines) -> PreparedClip:
    return encode(engines.sessions, TINY, motion_inputs())


def run(engines: Engines, clip: PreparedClip, options: Options = OPTIONS) -> list[Denoised]:
    return list(denoise(engines.session("denoiser"), TINY, clip, options))


class Heard:
    """A session that keeps what it was given and what it made of it."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.runs = inner, list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs: dict[str, np.ndarray] = self.inner.run(inputs)
        self.runs.append((dict(inputs), outputs))
        return outputs


def heard(
    engines: Engines, clip: PreparedClip, options: Options, preset: Preset = TINY
) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """What the denoiser was given and what it made of it, step by step."""
    denoiser: Any = Heard(engines.session("denoiser"))
    list(denoise(denoiser, preset, clip, options))
    return denoiser.runs


def latents(steps: list[Denoised]) -> list[np.ndarray]:
    return [step.latent for step in steps if step.latent is not None]


def test_encoding_by_segments_gives_every_frame_its_token(engines: Engines, clip: PreparedClip) -> None:
    segments = plan(21, TINY.latent_frames)
    assert len(segments) == 3
    assert clip.motion.shape == (21, TINY.face_encoder.out_channels)
    assert clip.pose_latent.shape[1] == sum(segment.latents for segment in segments)
    whole = engines.session("face_motion_encoder").run(
        {"faces": np.ascontiguousarray(motion_inputs().faces.transpose(0, 3, 1, 2)[None])}
    )
    np.testing.assert_allclose(clip.motion, whole["motion"][0], atol=1e-5)


def test_a_carried_latents_pose_is_of_the_four_frames_that_it_covers(engines: Engines, clip: PreparedClip) -> None:
    """As in training, where the controls of a carried latent are encoded after the frame before its four."""
    controls, at = motion_inputs().controls, 0
    for segment in plan(len(controls), TINY.latent_frames):
        first, stop = segment.first_frame - 4 * segment.carried, segment.first_frame + segment.frames
        seen = np.ascontiguousarray(controls[first:stop].transpose(3, 0, 1, 2)[None])
        expected = engines.session("pose_encoder").run({"control": seen})["pose_latent"][0]
        expected = expected[:, 1:] if segment.carried else expected
        np.testing.assert_allclose(clip.pose_latent[:, at : at + segment.latents], expected, atol=1e-5)
        at += segment.latents
    assert at == clip.pose_latent.shape[1]


def test_encoding_a_long_clip_takes_no_second_copy_of_it(engines: Engines) -> None:
    inputs = motion_inputs(100)  # its last segment is filled up
    tracemalloc.start()
    whole = encode(engines.sessions, TINY, inputs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert whole.motion.shape[0] == 101
    assert peak < inputs.faces.nbytes / 2


def test_the_last_latent_starts_the_next_segment(engines: Engines, clip: PreparedClip) -> None:
    done = latents(run(engines, clip))
    assert len(done) == 3
    for before, after in pairwise(done):
        np.testing.assert_array_equal(after[:, 0], before[:, -1])


def test_every_step_is_the_solvers_and_goes_on_from_the_one_before(engines: Engines, clip: PreparedClip) -> None:
    shifted = replace(TINY, timestep_shift=3.0, solver="multistep")
    runs = heard(engines, clip, Options(steps=3), shifted)
    assert len(runs) == 9
    for at, (step, (given, _)) in enumerate(zip(3 * schedule("multistep", 3, 3.0), runs, strict=True)):
        assert given["timestep"] == pytest.approx([step.timestep])
        assert given["coefficients"] == pytest.approx(step.coefficients)
        if at % 3:
            before = runs[at - 1][1]
            np.testing.assert_array_equal(given["latent"], before["latent_next"])
            np.testing.assert_array_equal(given["velocity_previous"], before["velocity"])


def test_every_segment_has_noise_controls_and_faces_of_its_own(engines: Engines, clip: PreparedClip) -> None:
    runs, at = heard(engines, clip, Options(steps=1)), 0
    for segment, (given, _) in zip(plan(21, TINY.latent_frames), runs, strict=True):
        np.testing.assert_array_equal(given["pose_latent"][0], clip.pose_latent[:, at : at + segment.latents])
        np.testing.assert_array_equal(given["motion"][0], clip.motion[segment.face_frames])
        np.testing.assert_array_equal(given["known"], [segment.carried, *[0] * (segment.latents - 1)])
        at += segment.latents
    assert len({given["latent"][:, :, 1].tobytes() for given, _ in runs}) == 3


def test_seed_decides(engines: Engines, clip: PreparedClip) -> None:
    first, again = (latents(run(engines, clip)) for _ in range(2))
    other = latents(run(engines, clip, Options(steps=2, seed=4)))
    np.testing.assert_array_equal(np.concatenate(first, 1), np.concatenate(again, 1))
    assert np.abs(first[0] - other[0]).max() > 0.1


def test_progress_counts_every_step_and_only_rises(engines: Engines, clip: PreparedClip) -> None:
    events = [step.event for step in run(engines, clip)]
    assert [(event.segment, event.step) for event in events] == [(s, n) for s in (1, 2, 3) for n in (1, 2)]
    fractions = [event.fraction for event in events]
    assert fractions == sorted(fractions)
    assert fractions[-1] <= 1


def test_guidance_of_one_is_the_conditional_velocity(engines: Engines, clip: PreparedClip) -> None:
    """With a batch of one there is no guidance; with two and a scale of almost one, nearly the same."""
    plain = latents(run(engines, clip, Options(steps=2, guidance_scale=1)))
    near = latents(run(engines, clip, Options(steps=2, guidance_scale=1.0001)))
    far = latents(run(engines, clip, Options(steps=2, guidance_scale=4)))
    np.testing.assert_allclose(plain[0], near[0], atol=1e-3)
    assert np.abs(plain[0] - far[0]).max() > 1e-2


def test_pseudo_references_come_first_and_change_the_video(engines: Engines, clip: PreparedClip) -> None:
    options = Options(steps=2, seed=3, pseudo_references=2)
    with_views = encode(engines.sessions, TINY, motion_inputs(), views=2)
    steps = run(engines, with_views, options)
    assert [step.event.stage for step in steps] == ["references"] * 4 + ["denoise"] * 6
    assert np.abs(latents(steps)[0] - latents(run(engines, clip))[0]).max() > 1e-3


def test_views_are_made_from_their_own_controls_and_come_after_the_photos(engines: Engines) -> None:
    clip = encode(engines.sessions, TINY, motion_inputs(references=2), views=2)
    *views, (first, _) = heard(engines, clip, Options(steps=1, pseudo_references=2))[:3]
    for view, (given, _) in enumerate(views):
        np.testing.assert_array_equal(given["pose_latent"][0], clip.view_pose[view][:, None])
        np.testing.assert_array_equal(given["motion"][0], clip.view_motion[view : view + 1])
    assert not np.array_equal(views[0][0]["latent"], views[1][0]["latent"])
    made = [made["latent_next"][:, :, 0] for _, made in views]
    np.testing.assert_array_equal(first["reference_latent"][0], np.concatenate([clip.reference_latent, *made]))
    np.testing.assert_array_equal(first["reference_pose"][0], np.concatenate([clip.reference_pose, clip.view_pose]))


def test_every_photo_and_view_is_encoded_with_its_own_controls(engines: Engines) -> None:
    inputs = motion_inputs(references=2)
    clip, chosen = encode(engines.sessions, TINY, inputs, views=3), extreme_yaws(inputs.yaw)

    def pose(control: np.ndarray) -> np.ndarray:
        control = np.ascontiguousarray(control.transpose(2, 0, 1)[None, :, None])
        return engines.session("pose_encoder").run({"control": control})["pose_latent"][0, :, 0]

    np.testing.assert_allclose(clip.reference_pose, [pose(one) for one in inputs.reference_controls], atol=1e-5)
    np.testing.assert_allclose(clip.view_pose, [pose(inputs.controls[at]) for at in chosen], atol=1e-5)
    np.testing.assert_array_equal(clip.view_motion, clip.motion[chosen])


def test_finisher_delivers_each_frame_once_and_cropped(engines: Engines, clip: PreparedClip) -> None:
    finisher = Finisher(engines.session("vae_decoder"), clip.framing, b"")
    frames = [finisher.add(latent) for latent in latents(run(engines, clip))]
    assert [len(part) for part in frames] == [9, 8, 4]
    assert frames[0].shape[1:] == (56, 64, 3)
    assert finisher.close()[4:8] == b"ftyp"


def test_first_segment_is_decoded_like_the_whole(engines: Engines, clip: PreparedClip) -> None:
    """The causal decoder with its context gives the frames that one decoding of everything would give, nearly."""
    parts = latents(run(engines, clip))
    whole = np.concatenate([parts[0], *(part[:, 1:] for part in parts[1:])], 1)
    expected = engines.session("vae_decoder").run({"latent": whole[None]})["video"][0].transpose(1, 2, 3, 0)
    finisher = Finisher(engines.session("vae_decoder"), clip.framing, b"")
    found = np.concatenate([finisher.add(part) for part in parts])
    finisher.abort()
    np.testing.assert_array_equal(found[:9], expected[:9, 4:60])
    assert np.abs(found.astype(int) - expected[:, 4:60].astype(int)).mean() < 2


def test_photos_and_views_together_are_no_more_than_the_engines_take(engines: Engines) -> None:
    limits = Limits().for_references(4)
    with pytest.raises(InputError, match="2 photos and 3 pseudo-references; these engines take 4 in all"):
        prepare(engines.sessions, TINY, [b"", b""], b"", Options(pseudo_references=3), limits)
