"""Motion inputs to calibrate and compare on: synthetic characters where they are at hand, else noise and lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from dreamactor.presets import CONTROL_CHANNELS, FACE_SIZE, Preset

if TYPE_CHECKING:
    from dreamactor.motion.prepare import MotionInputs


CHARACTERS, NOISE = "synthetic characters of the validation split", "noise and random lines (no motion capture here)"


def origin() -> str:
    """Where clips come from on this machine, in words. The characters are of the validation split: the network never
    saw them."""
    from dreamactor.training.assets import mocap_folder
    from dreamactor.training.characters.mocap import is_there

    return CHARACTERS if is_there(mocap_folder(), "val") else NOISE


def clips(preset: Preset, seeds: Iterable[int], frames: int, references: int = 1) -> list[MotionInputs]:
    """A clip of `frames` frames, with so many photos, at the preset's size from each seed, from `origin`."""
    make = _characters if origin() == CHARACTERS else _drawn
    return list(make(preset, seeds, frames, references))


def _characters(preset: Preset, seeds: Iterable[int], frames: int, references: int) -> Iterator[MotionInputs]:
    from dreamactor.training.assets import mocap_folder
    from dreamactor.training.characters.clip import enlarge_faces, make_clip
    from dreamactor.training.characters.scene import Scenes

    scenes = Scenes("val", mocap_folder(), preset.height, preset.width, preset.fps)
    for seed in seeds:
        clip = make_clip(scenes, seed, frames, ("half", "face", "full")[seed % 3])
        faces = enlarge_faces(clip.faces)
        photos, views = clip.references[:references], clip.reference_controls[:references]
        yield _inputs(preset, photos, views, clip.controls, faces)


def _drawn(preset: Preset, seeds: Iterable[int], frames: int, references: int) -> Iterator[MotionInputs]:
    import cv2

    for seed in seeds:
        draw = np.random.default_rng(seed)

        def pixels(*shape: int, draw: np.random.Generator = draw) -> np.ndarray:
            return draw.integers(0, 256, shape, dtype=np.uint8)

        height, width = preset.height, preset.width
        controls = np.zeros((frames + references, height, width, CONTROL_CHANNELS), np.uint8)
        for frame, control in enumerate(controls):
            for _ in range(6):
                start, end = draw.integers(0, min(height, width), (2, 2))
                colour = [int(value) for value in draw.integers(64, 256, 3)]
                picture = np.ascontiguousarray(control[..., :3])
                cv2.line(picture, start.tolist(), ((end + frame) % width).tolist(), colour, 2)
                control[..., :3] = picture
        photos, faces = pixels(references, height, width, 3), pixels(frames, FACE_SIZE, FACE_SIZE, 3)
        yield _inputs(preset, photos, controls[:references], controls[references:], faces)


def _inputs(
    preset: Preset, references: np.ndarray, reference_controls: np.ndarray, controls: np.ndarray, faces: np.ndarray
) -> MotionInputs:
    from dreamactor.motion.prepare import MotionInputs

    height, width = preset.height, preset.width
    return MotionInputs(
        references=references.astype(np.uint8),
        reference_controls=reference_controls,
        controls=controls,
        faces=faces.astype(np.uint8),
        fps=float(preset.fps),
        crop=(0, 0, height, width),
        notes=(),
        yaw=np.zeros(len(controls), np.float32),
    )
