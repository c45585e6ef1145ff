"""Motion inputs to calibrate and compare on: synthetic characters where they are at hand, else noise and lines."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from dreamactor.errors import DreamActorError
from dreamactor.motion.prepare import MotionInputs
from dreamactor.presets import CONTROL_CHANNELS, FACE_SIZE, Preset


def clips(preset: Preset, count: int, frames: int) -> tuple[str, list[MotionInputs]]:
    """A sentence that says where they come from, and `count` clips of `frames` frames at the preset's size.

    The characters are of the validation split: the network never saw them.
    """
    try:
        return "synthetic characters of the validation split", list(_characters(preset, count, frames))
    except (DreamActorError, ImportError, OSError):
        return "noise and random lines (no motion capture clips here)", list(_drawn(preset, count, frames))


def _characters(preset: Preset, count: int, frames: int) -> Iterator[MotionInputs]:
    from dreamactor.training.assets import mocap_folder
    from dreamactor.training.clip import make_clip
    from dreamactor.training.scene import Stage

    stage = Stage("val", mocap_folder(), preset.height, preset.width, preset.fps)
    for seed in range(count):
        clip = make_clip(stage, seed, frames, ("half", "face", "full")[seed % 3])
        faces = [cv2.resize(face, (FACE_SIZE, FACE_SIZE), interpolation=cv2.INTER_LINEAR) for face in clip.faces]
        yield _inputs(preset, clip.references[:1], clip.reference_controls[:1], clip.controls, np.stack(faces))


def _drawn(preset: Preset, count: int, frames: int) -> Iterator[MotionInputs]:
    for seed in range(count):
        draw = np.random.default_rng(seed)

        def pixels(*shape: int, draw: np.random.Generator = draw) -> np.ndarray:
            return draw.integers(0, 256, shape, dtype=np.uint8)

        height, width = preset.height, preset.width
        controls = np.zeros((frames + 1, height, width, CONTROL_CHANNELS), np.uint8)
        for frame, control in enumerate(controls):
            for _ in range(6):
                start, end = draw.integers(0, min(height, width), (2, 2))
                colour = [int(value) for value in draw.integers(64, 256, 3)]
                picture = np.ascontiguousarray(control[..., :3])
                cv2.line(picture, start.tolist(), ((end + frame) % width).tolist(), colour, 2)
                control[..., :3] = picture
        yield _inputs(
            preset, pixels(1, height, width, 3), controls[:1], controls[1:], pixels(frames, FACE_SIZE, FACE_SIZE, 3)
        )


def _inputs(
    preset: Preset, references: np.ndarray, reference_controls: np.ndarray, controls: np.ndarray, faces: np.ndarray
) -> MotionInputs:
    height, width = preset.height, preset.width
    return MotionInputs(
        references=references.astype(np.uint8),
        reference_controls=reference_controls,
        controls=controls,
        faces=faces.astype(np.uint8),
        fps=float(preset.fps),
        crop=(0, 0, height, width),
        output_size=(height, width),
        notes=(),
        scale="half",
        yaw=np.zeros(len(controls), np.float32),
    )
