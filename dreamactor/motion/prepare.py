"""From encoded photos and an encoded clip to everything the networks need, in their size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamactor.errors import InputError
from dreamactor.motion.clip import decode_clip
from dreamactor.motion.draw import DrawnControls, draw_controls
from dreamactor.motion.faces import crop_faces, face_boxes
from dreamactor.motion.image import decode_image
from dreamactor.motion.landmarks import Landmarker
from dreamactor.motion.letterbox import Frame, fit
from dreamactor.motion.limits import Limits
from dreamactor.motion.metadata import pose_from_metadata
from dreamactor.motion.pose import PoseSequence
from dreamactor.motion.retarget import Scale, choose_scale, only, retarget
from dreamactor.motion.roi import Picture
from dreamactor.motion.sequence import pose_of, to_sequence
from dreamactor.motion.track import Followed, follow, main_person
from dreamactor.presets import Preset

OnShare = Callable[[float], None]
SMALL = 0.06  # share of the photo's height below which a head is too small to animate well


@dataclass(frozen=True)
class MotionInputs:
    """Everything the networks need, in the preset's size.

    references u8 [R, H, W, 3]; reference_controls u8 [R, H, W, 6]; controls u8 [T, H, W, 6]; faces u8 [T, 224, 224, 3];
    `crop` (top, left, height, width) is the part of H x W that is real picture, of even height and width; `notes` say
    what was chosen and what was interpolated; `yaw` [T] is how far the driving head is turned, in radians.
    """

    references: NDArray[np.uint8]
    reference_controls: NDArray[np.uint8]
    controls: DrawnControls | NDArray[np.uint8]
    faces: NDArray[np.uint8]
    fps: float
    crop: tuple[int, int, int, int]
    notes: tuple[str, ...]
    yaw: NDArray[np.float32]


def prepare(
    references: Sequence[bytes],
    driving: bytes,
    preset: Preset,
    limits: Limits = Limits(),
    max_frames: int | None = None,
    scale: Scale | None = None,
    on_progress: OnShare = lambda share: None,
    landmarker: Landmarker | None = None,
) -> MotionInputs:
    """Decodes, finds and follows the person, retargets the motion, cuts the faces; the clip's controls are
    drawn when they are read.

    The first reference gives the framing and the body; further ones are more views of the same person. `on_progress`
    gets the share done, 0..1, and may raise to cancel. The models are opened unless a `landmarker` is given. The same
    input gives the same output. Raises InputError for what cannot be used, MissingDependency when the landmark models
    are not there.
    """
    report = _Report(on_progress)
    if not 1 <= len(references) <= limits.references:
        raise InputError(f"{len(references)} reference images were given; 1 to {limits.references} are accepted.")
    names = [_name(index, len(references)) for index in range(len(references))]
    pictures = [decode_image(data, limits, name) for data, name in zip(references, names, strict=True)]
    landmarker = landmarker or Landmarker()
    people = [
        _find(landmarker, data, picture, name) for data, picture, name in zip(references, pictures, names, strict=True)
    ]
    notes = [note for _, found in people for note in found]
    report(0.05)
    clip = decode_clip(
        driving, preset.fps, limits, max_frames,
        on_frame=lambda done, expected: report(0.05 + 0.2 * min(1, done / expected)),
    )  # fmt: skip
    fps, total = preset.fps, len(clip.frames)
    followed = follow(landmarker, clip.frames, fps, on_frame=lambda done: report(0.25 + 0.65 * done / total))
    motion = to_sequence(followed, clip.frames.shape[1], clip.frames.shape[2], fps)
    views = [(picture, pose) for picture, (pose, _) in zip(pictures, people, strict=True)]
    boxes = np.where(followed.found[:, None], face_boxes(motion), np.float32(np.nan))
    faces = crop_faces(clip.frames, boxes)
    inputs = compose(views, motion, faces, preset, scale, (*notes, *clip.notes, *_notes_on(followed, fps)))
    report(1.0)
    return inputs


def compose(
    views: Sequence[tuple[Picture, PoseSequence]],
    motion: PoseSequence,
    faces: NDArray[np.uint8],
    preset: Preset,
    scale: Scale | None = None,
    notes: Sequence[str] = (),
) -> MotionInputs:
    """The second half of `prepare`: from reference pictures with their one-frame poses and a pose sequence.

    `motion` is in the pixels of its own clip, each view's pose in those of its picture; faces u8 [T, 224, 224, 3].
    """
    height, width = preset.height, preset.width
    frames = [Frame.of(picture, height, width) for picture, _ in views]
    placed = [pose.transformed(frame.scale, frame.offset) for frame, (_, pose) in zip(frames, views, strict=True)]
    chosen = scale or choose_scale(placed[0])
    first = frames[0]
    moved, kept = retarget(motion, placed[0], chosen, preset.fps, first.crop[2:])
    why = "as asked" if scale else "what the photo shows"
    return MotionInputs(
        references=np.stack([fit(picture, frame) for frame, (picture, _) in zip(frames, views, strict=True)]),
        reference_controls=np.concatenate([draw_controls(only(pose, chosen), height, width) for pose in placed]),
        controls=DrawnControls(moved, height, width),
        faces=faces,
        fps=float(preset.fps),
        crop=first.crop,
        notes=(f"scale '{chosen}' ({why})", *notes, *kept),
        yaw=np.arctan2(moved.head_rotation[:, 0, 2], moved.head_rotation[:, 2, 2]),
    )


def _name(index: int, count: int) -> str:
    return "the reference image" if count == 1 else f"reference image {index + 1}"


def _find(landmarker: Landmarker, data: bytes, picture: Picture, name: str) -> tuple[PoseSequence, tuple[str, ...]]:
    """The person of one photo, from the landmarks it carries or from the models, and what is to be said about it."""
    height, width = picture.shape[:2]
    carried = pose_from_metadata(data, height, width, name)
    if carried is not None:
        return carried, (f"{name} carries its own landmarks",)
    seen, others = main_person(landmarker, picture, name)
    pose = pose_of(seen, height, width)
    notes = [f"{name} shows {others + 1} people; the largest is animated"] if others else []
    if pose.head_radius[0] * 2 < SMALL * height:
        notes.append(f"the person in {name} is small; a closer crop of the photo gives a better result")
    return pose, tuple(notes)


def _notes_on(followed: Followed, fps: float) -> list[str]:
    """What is to be said about the driving person: others, gaps, faces unseen."""
    notes = []
    found = followed.found
    if followed.others:
        notes.append(f"the driving clip shows {followed.others + 1} people at once; the largest is followed")
    lost = np.flatnonzero(~found)
    if len(lost):
        start, stop = lost[0] / fps, (lost[-1] + 1) / fps
        notes.append(
            f"the person is not found in {len(lost)} of {len(found)} driving frames, between {start:.1f} s and "
            f"{stop:.1f} s; the motion there is interpolated and the face kept"
        )
    faceless = sum(seen is not None and seen.face is None for seen in followed.seen)
    if faceless:
        notes.append(
            f"no face is seen in {faceless} of {len(found)} driving frames; the head is taken from the body there"
        )
    return notes


class _Report:
    """Passes progress on, a few times a second at most, so that a caller may print it as it comes. It never goes back,
    also where work is begun anew."""

    def __init__(self, on_progress: OnShare) -> None:
        self._call, self._last, self._most = on_progress, 0.0, 0.0

    def __call__(self, share: float) -> None:
        now, self._most = time.monotonic(), max(self._most, share)
        if share >= 1 or now - self._last > 0.1:
            self._last = now
            self._call(self._most)
