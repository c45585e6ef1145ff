"""First stage: photos and a clip to latents and tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamactor.engines.session import Session
from dreamactor.errors import InputError
from dreamactor.motion.draw import DrawnControls
from dreamactor.motion.landmarks import Landmarker
from dreamactor.motion.limits import Limits
from dreamactor.motion.pose import extreme_yaws
from dreamactor.motion.prepare import MotionInputs
from dreamactor.motion.prepare import prepare as prepare_motion
from dreamactor.pipeline.events import PREPARE_SHARE, Event, OnProgress, ignore
from dreamactor.pipeline.options import Options
from dreamactor.pipeline.segments import plan
from dreamactor.presets import Preset

Float = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Framing:
    """What the last stage needs to know of the video: rate, frame count, and the real region (top, left, height, width)
    in pixels, which is what is written."""

    fps: float
    frames: int
    crop: tuple[int, int, int, int]


@dataclass(frozen=True)
class PreparedClip:
    """Everything the denoiser needs: small, so that it may cross processes.

    reference_latent, reference_pose [R,16,h,w]; pose_latent [16,sum of the segments' latents,h,w], segment after
    segment; motion [T',c] with T' the frame count filled up to 4k+1. view_pose [K,16,h,w] and view_motion [K,c] are
    the controls of the K pseudo-references that were asked for.
    """

    reference_latent: Float
    reference_pose: Float
    pose_latent: Float
    motion: Float
    view_pose: Float
    view_motion: Float
    framing: Framing


def prepare(
    sessions: Mapping[str, Session],
    preset: Preset,
    references: Sequence[bytes],
    driving: bytes,
    options: Options,
    limits: Limits = Limits(),
    on_progress: OnProgress = ignore,
    landmarker: Landmarker | None = None,
) -> PreparedClip:
    """Decodes, finds the person, draws the controls and encodes them. Raises InputError naming what cannot be used.

    `landmarker` spares opening its models again; it must be this thread's own.
    """

    def report(done: float, message: str = "") -> None:
        on_progress(Event("prepare", fraction=PREPARE_SHARE * done, message=message))

    if options.pseudo_references and len(references) + options.pseudo_references > limits.references:
        raise InputError(
            f"Too many references: {len(references)} photos and {options.pseudo_references} pseudo-references; these "
            f"engines take {limits.references} in all. Leave some out."
        )
    report(0.0)
    inputs = prepare_motion(
        references, driving, preset, limits, options.max_frames, options.scale,
        on_progress=lambda done: report(0.7 * done), landmarker=landmarker,
    )  # fmt: skip
    for note in inputs.notes:
        report(0.7, note)
    return encode(sessions, preset, inputs, options.pseudo_references, report)


def encode(
    sessions: Mapping[str, Session],
    preset: Preset,
    inputs: MotionInputs,
    views: int = 0,
    report: Callable[[float], None] = lambda done: None,
) -> PreparedClip:
    """Runs the three encoders over motion inputs at the preset's size; `views` pseudo-references get controls too."""
    frames = len(inputs.controls)
    segments = plan(frames, preset.latent_frames)
    latents, reference_poses = [], []
    for image, control in zip(inputs.references, inputs.reference_controls, strict=True):
        latents.append(sessions["vae_encoder"].run({"video": _channels_first(image[None])})["latent"][0, :, 0])
        reference_poses.append(_encode_pose(sessions, control[None])[:, 0])
    poses, motions = [], []
    for segment in segments:
        poses.append(_encode_pose(sessions, _cut(inputs.controls, segment.pose_frames))[:, segment.pose_context :])
        faces = _crops_first(_cut(inputs.faces, segment.face_frames))
        tokens = sessions["face_motion_encoder"].run({"faces": faces})["motion"][0]
        motions.append(tokens[1:] if segment.carried else tokens)
        report(0.7 + 0.3 * (segment.index + 1) / len(segments))
    motion = np.concatenate(motions)
    chosen = extreme_yaws(inputs.yaw)[:views]
    view_poses = [_encode_pose(sessions, inputs.controls[index : index + 1])[:, 0] for index in chosen]
    grid = reference_poses[0].shape
    return PreparedClip(
        np.stack(latents), np.stack(reference_poses), np.concatenate(poses, 1), motion,
        np.stack(view_poses) if view_poses else np.zeros((0, *grid), np.float32), motion[chosen],
        Framing(inputs.fps, frames, inputs.crop),
    )  # fmt: skip


def _encode_pose(sessions: Mapping[str, Session], control: Bytes) -> Float:
    latent: Float = sessions["pose_encoder"].run({"control": _channels_first(control)})["pose_latent"][0]
    return latent


def _cut(frames: Bytes | DrawnControls, wanted: slice) -> Bytes:
    """The frames that are wanted; where the clip ends before they do, its last frame is repeated."""
    part = frames[wanted]
    missing = wanted.stop - wanted.start - len(part)
    return part if missing <= 0 else np.concatenate([part, np.repeat(part[-1:], missing, 0)])


def _channels_first(frames: Bytes) -> Bytes:
    """[T,H,W,C] -> [1,C,T,H,W]."""
    return np.ascontiguousarray(frames.transpose(3, 0, 1, 2)[None])


def _crops_first(faces: Bytes) -> Bytes:
    """[T,H,W,3] -> [1,T,3,H,W]."""
    return np.ascontiguousarray(faces.transpose(0, 3, 1, 2)[None])
