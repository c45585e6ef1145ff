"""What the served stages say to each other and to the caller: every tensor's name, type and shape, in one place.

An ensemble's step may take tensors from one decoupled step only, so each stage hands on all that a later one needs.
Every response of a stage has every output; what there is nothing of yet is empty (a size of 0, or no bytes).

A failure travels as data too, in a stage's last response: an error from a step while a later step is at work leaves the
ensemble's request in flight for ever (Triton 2.51, tried), so only the last step answers with one, and only at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import numpy as np

from dreamactor.engines.session import Array
from dreamactor.errors import InputError
from dreamactor.pipeline import Event, Options
from dreamactor.pipeline.prepare import Framing, PreparedClip
from dreamactor.presets import LATENT_CHANNELS as C
from dreamactor.serving.pbtxt import Port
from dreamactor.serving.problem import Problem

T = TypeVar("T")
ENSEMBLE = "dreamactor"
REQUEST = (
    # all optional for Triton, which only counts inputs: with one missing that is not, an ensemble would wait for ever
    Port("REFERENCE_IMAGE", "bytes", (-1,), optional=True),
    Port("DRIVING_VIDEO", "bytes", (1,), optional=True),
    Port("OPTIONS", "bytes", (1,), optional=True),
)
RESPONSE = (Port("EVENT", "bytes", (1,)), Port("VIDEO", "bytes", (1,)))
PREPARED = (
    Port("prepare_event", "bytes", (1,)),
    Port("prepare_job", "bytes", (1,)),
    Port("prepare_problem", "bytes", (1,)),
    Port("prepare_options", "bytes", (1,)),
    Port("prepare_framing", "bytes", (1,)),
    Port("prepare_driving", "bytes", (1,)),
    Port("reference_latent", "float32", (-1, C, -1, -1)),
    Port("reference_pose", "float32", (-1, C, -1, -1)),
    Port("pose_latent", "float32", (C, -1, -1, -1)),
    Port("motion", "float32", (-1, -1)),
    Port("view_pose", "float32", (-1, C, -1, -1)),
    Port("view_motion", "float32", (-1, -1)),
)
DENOISED = (
    Port("denoise_event", "bytes", (1,)),
    Port("denoise_job", "bytes", (1,)),
    Port("denoise_problem", "bytes", (1,)),
    Port("denoise_framing", "bytes", (1,)),
    Port("denoise_driving", "bytes", (1,)),
    Port("latent", "float32", (C, -1, -1, -1)),
)

MAX_SIDE, MAX_FPS, MAX_FRAMES = 8192, 1000, 1_000_000  # of a video that the last stages accept

Arrays = dict[str, Array]


@dataclass(frozen=True)
class Request:
    """What the caller asked for."""

    references: tuple[bytes, ...]
    driving: bytes
    options: Options

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Request:
        """Raises InputError for what is missing and for options that cannot be read."""
        references = tuple(_items(arrays["REFERENCE_IMAGE"])) if "REFERENCE_IMAGE" in arrays else ()
        if not references:
            raise InputError("REFERENCE_IMAGE is missing or empty: send one encoded image or more.")
        if "DRIVING_VIDEO" not in arrays:
            raise InputError("DRIVING_VIDEO is missing: send an encoded clip.")
        options = unpack_bytes(arrays["OPTIONS"]) if "OPTIONS" in arrays else b""
        return cls(references, unpack_bytes(arrays["DRIVING_VIDEO"]), Options.from_json(options))

    def to_arrays(self) -> Arrays:
        return {
            "REFERENCE_IMAGE": pack_bytes(*self.references),
            "DRIVING_VIDEO": pack_bytes(self.driving),
            "OPTIONS": pack_bytes(self.options.to_json()),
        }


@dataclass(frozen=True)
class Prepared:
    """One response of `prepare`: an event of the job, and in the last one the clip or the problem."""

    event: Event
    job: str
    options: Options = field(default_factory=Options)
    driving: bytes = b""
    clip: PreparedClip | None = None
    problem: Problem | None = None

    def to_arrays(self) -> Arrays:
        clip, empty = self.clip, np.zeros((C, 0, 0, 0), np.float32)
        references = empty.transpose(1, 0, 2, 3)
        return {
            "prepare_event": pack_bytes(self.event.to_json()),
            "prepare_job": pack_bytes(self.job),
            "prepare_problem": pack_bytes(self.problem.to_json() if self.problem else b""),
            "prepare_options": pack_bytes(self.options.to_json()),
            "prepare_framing": pack_bytes(_framing_text(clip.framing) if clip else b""),
            "prepare_driving": pack_bytes(self.driving),
            "reference_latent": clip.reference_latent if clip else references,
            "reference_pose": clip.reference_pose if clip else references,
            "pose_latent": clip.pose_latent if clip else empty,
            "motion": clip.motion if clip else np.zeros((0, 0), np.float32),
            "view_pose": clip.view_pose if clip else references,
            "view_motion": clip.view_motion if clip else np.zeros((0, 0), np.float32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Prepared:
        framing = _framing(unpack_bytes(arrays["prepare_framing"]))
        clip = None
        if framing is not None:
            clip = PreparedClip(
                arrays["reference_latent"], arrays["reference_pose"], arrays["pose_latent"], arrays["motion"],
                arrays["view_pose"], arrays["view_motion"], framing,
            )  # fmt: skip
        return cls(
            _read(Event.from_json, arrays, "prepare_event"),
            _read(bytes.decode, arrays, "prepare_job"),
            Options.from_json(unpack_bytes(arrays["prepare_options"])),
            unpack_bytes(arrays["prepare_driving"]),
            clip,
            _read(Problem.from_json, arrays, "prepare_problem"),
        )


@dataclass(frozen=True)
class Passed:
    """One response of `denoise`: an event, a segment's latent when it is done, with the first of these what frames it.

    In the last one the event's stage is "done", or there is a problem.
    """

    event: Event
    job: str
    latent: Array | None = None
    framing: Framing | None = None
    driving: bytes = b""
    problem: Problem | None = None

    @property
    def last(self) -> bool:
        return self.problem is not None or self.event.stage == "done"

    def to_arrays(self) -> Arrays:
        return {
            "denoise_event": pack_bytes(self.event.to_json()),
            "denoise_job": pack_bytes(self.job),
            "denoise_problem": pack_bytes(self.problem.to_json() if self.problem else b""),
            "denoise_framing": pack_bytes(_framing_text(self.framing) if self.framing else b""),
            "denoise_driving": pack_bytes(self.driving),
            "latent": self.latent if self.latent is not None else np.zeros((C, 0, 0, 0), np.float32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Passed:
        return cls(
            _read(Event.from_json, arrays, "denoise_event"),
            _read(bytes.decode, arrays, "denoise_job"),
            arrays["latent"] if arrays["latent"].size else None,
            _framing(unpack_bytes(arrays["denoise_framing"])),
            unpack_bytes(arrays["denoise_driving"]),
            _read(Problem.from_json, arrays, "denoise_problem"),
        )


def pack_bytes(*items: bytes | str) -> Array:
    """A BYTES tensor; of objects, because numpy's own bytes lose trailing zeros."""
    return np.array([item.encode() if isinstance(item, str) else item for item in items], dtype=object)


def unpack_bytes(array: Array) -> bytes:
    """The first item of a BYTES tensor, or no bytes."""
    items = _items(array)
    return items[0] if items else b""


def _read(made_of: Callable[[bytes], T], arrays: Mapping[str, Array], name: str) -> T:
    """What the bytes of an input stand for; raises InputError where they stand for nothing."""
    try:
        return made_of(unpack_bytes(arrays[name]))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"Input {name} cannot be read: {error}.") from error


def _items(array: Array) -> list[bytes]:
    return [bytes(item) for item in array.reshape(-1)]


def _framing_text(framing: Framing) -> str:
    return json.dumps(asdict(framing))


def _framing(text: bytes) -> Framing | None:
    """Raises InputError for what is no framing of a video."""
    if not text:
        return None
    try:
        values = json.loads(text)
        top, left, height, width = map(int, values["crop"])
        framing = Framing(float(values["fps"]), int(values["frames"]), (top, left, height, width))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"The framing cannot be read: {error}.") from error
    if not (0 < framing.fps <= MAX_FPS and all(0 <= side <= MAX_SIDE for side in framing.crop)):
        raise InputError(f"The framing is out of range: up to {MAX_SIDE} pixels a side and {MAX_FPS} frames a second.")
    if not 0 < framing.frames <= MAX_FRAMES:
        raise InputError(f"The framing has {framing.frames} frames; from 1 to {MAX_FRAMES} are taken.")
    return framing
