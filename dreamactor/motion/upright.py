"""A clip's frame as a player shows it: an upright RGB picture of square pixels, as large as is worked with."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from dreamactor.errors import InputError
from dreamactor.motion.limits import Limits

NAME = "the driving clip"  # as messages call it


class Upright:
    """Undoes rotation and the pixels' `aspect`, lays transparency on white and shrinks frames so that `wanted` of them
    fit the limits, which is then in `notes`."""

    def __init__(self, limits: Limits, wanted: int, aspect: float, notes: list[str]) -> None:
        self._limits, self._wanted, self._aspect, self._notes = limits, wanted, aspect, notes
        self._target: tuple[int, int] | None = None  # width and height before it is turned
        self._shown = (0, 0)  # height and width

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]. Raises InputError for a frame that is too large or turned otherwise than the first."""
        if frame.width * frame.height > self._limits.clip_pixels:
            raise InputError(
                f"Too many pixels: {NAME} changes to frames of {frame.width}x{frame.height}; the limit is "
                f"{self._limits.clip_pixels} pixels a frame."
            )
        if self._target is None:
            self._target = self._working_size(frame)
        width, height = self._target
        shrinks = width < frame.width
        see_through = any(component.is_alpha for component in frame.format.components)
        pixels = frame.reformat(
            width, height, "rgba" if see_through else "rgb24",
            interpolation=Interpolation.AREA if shrinks else Interpolation.BICUBIC,
        ).to_ndarray()  # fmt: skip
        if see_through:
            alpha = pixels[..., 3:].astype(np.uint16)
            pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        turns = round(frame.rotation / 90) % 4
        upright = np.ascontiguousarray(np.rot90(pixels, turns) if turns else pixels, np.uint8)
        if upright.shape[:2] != self._shown:
            raise InputError(f"{NAME} changes its orientation half way; cut it into one clip each.")
        return upright

    def _working_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        width, height = max(1, round(frame.width * self._aspect)), frame.height
        turned = round(frame.rotation / 90) % 2 == 1
        original = (width, height) if turned else (height, width)
        scale = min(1.0, self._limits.clip_side / max(width, height))
        fits = (self._limits.clip_memory / (3.0 * self._wanted * width * height)) ** 0.5
        scale = min(scale, fits)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        self._shown = (width, height) if turned else (height, width)
        if scale < 1:
            self._notes.append(
                f"{NAME} is {original[1]}x{original[0]}; it was shrunk to {self._shown[1]}x{self._shown[0]} "
                "to be analysed"
            )
        return width, height
