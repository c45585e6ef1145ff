"""A clip's frame as a player shows it: an upright RGB picture of square pixels, as large as is worked with."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from dreamactor.errors import InputError
from dreamactor.motion.limits import Limits

NAME = "the driving clip"  # as messages call it


class Upright:
    """Undoes rotation, mirroring and the pixels' `aspect`, lays transparency on white and shrinks frames so that
    `wanted` of them fit the limits, which is then in `notes`."""

    def __init__(self, limits: Limits, wanted: int, aspect: float, notes: list[str]) -> None:
        self._limits, self._wanted, self._aspect, self._notes = limits, wanted, aspect, notes
        self._first = (0, 0)  # width and height of the first frame
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
            self._first, self._target = (frame.width, frame.height), self._working_size(frame)
        elif not 0.98 < frame.width * self._first[1] / (frame.height * self._first[0]) < 1.02:
            raise InputError(
                f"{NAME} changes its shape half way, from {self._first[0]}x{self._first[1]} to "
                f"{frame.width}x{frame.height}: cut it into one clip each."
            )
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
        lies, columns, rows = _display(frame)
        pixels = pixels.transpose(1, 0, 2) if lies else pixels
        upright = np.ascontiguousarray(pixels[::rows, ::columns], np.uint8)
        if upright.shape[:2] != self._shown:
            raise InputError(f"{NAME} changes its orientation half way; cut it into one clip each.")
        return upright

    def _working_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        width, height = max(1, round(frame.width * self._aspect)), frame.height
        turned = _display(frame)[0]
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


def _display(frame: av.VideoFrame) -> tuple[bool, int, int]:
    """How the frame is shown, to the nearest quarter turn: whether rows become columns, and the steps, 1 or -1, in
    which columns and rows are then read."""
    found: Any = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return False, 1, 1
    (a, b), (c, d) = np.frombuffer(bytes(found), np.int32).reshape(3, 3)[:2, :2].tolist()  # x' = ax + cy, y' = bx + dy
    lies = abs(b) > abs(a)
    right, down = (c, b) if lies else (a, d)
    return lies, -1 if right < 0 else 1, -1 if down < 0 else 1
