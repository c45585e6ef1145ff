"""Video out: frames to an MP4 (H.264, 4:2:0) with the driving clip's sound."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.packet import Packet
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray

from dreamactor.errors import DreamActorError
from dreamactor.motion.sound import Sound

X264 = {"crf": "17", "preset": "medium", "x264-params": "mbtree=0"}
"""Visually lossless. x264's macroblock tree on AVX-512 gave other bytes in each run (of 16 runs at 320x192, 8 differed;
with it off, or with asm=avx2, none), so it is off."""
BT709 = {
    "dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG,
    "dst_color_trc": ColorTrc.BT709, "dst_color_primaries": ColorPrimaries.BT709,
}  # fmt: skip


class VideoWriter:
    """Encodes frames as they come; `close` finishes the file and returns its bytes.

    `size` is (height, width) of the frames, both even. `audio_from` is an encoded clip whose sound
    is copied (or encoded to AAC where MP4 cannot hold its codec), cut to the frames' length. The same frames give the
    same bytes. Meanwhile the file lies, without a name, in the temporary folder: however the process ends, nothing is
    left. Raises DreamActorError when that folder is full or refuses the file.
    """

    def __init__(self, fps: float, size: tuple[int, int], audio_from: bytes | None = None) -> None:
        if size[0] % 2 or size[1] % 2 or min(size) < 2:
            raise ValueError(f"size is {size}; height and width must be even and positive")
        self.frames = 0
        self._size, self._rate = size, Fraction(fps).limit_denominator(1001)
        self._sound: Sound | None = None
        with _disk():
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            with _disk():
                self._open(audio_from)
        except BaseException:
            self.abort()
            raise

    def _open(self, audio_from: bytes | None) -> None:
        # bitexact: no dates, no library version; faststart: players begin before the whole file has arrived
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        # a path, not the file itself: for faststart FFmpeg opens what it has written once more
        self._output = av.open(f"/proc/self/fd/{self._file.fileno()}", "w", format="mp4", options=options)
        self._video = self._output.add_stream("libx264", rate=self._rate, options=X264)
        context = self._video.codec_context
        self._video.height, self._video.width = self._size
        self._video.pix_fmt = "yuv420p"
        context.thread_count = 1  # x264's result depends on the number of threads
        context.time_base = 1 / self._rate
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        if audio_from:
            sound = Sound(audio_from)
            if sound.available:
                self._sound = sound
                sound.attach(self._output)

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Appends one frame, uint8 RGB [H, W, 3]."""
        if frame.shape[:2] != self._size:
            raise ValueError(f"a frame is {frame.shape[:2]}; height and width were said to be {self._size}")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = picture.reformat(format="yuv420p", **BT709)
        picture.pts, picture.time_base = self.frames, 1 / self._rate
        self.frames += 1
        with _disk():
            for packet in self._video.encode(picture):
                self._mux(packet)
            self._mux_sound()

    def close(self) -> bytes:
        """Finishes the file and returns its bytes."""
        try:
            with _disk():
                for packet in self._video.encode(None):
                    self._mux(packet)
                self._mux_sound()
                self._output.close()
                return self._file.read()
        finally:
            self.abort()

    def abort(self) -> None:
        """Drops the unfinished file; does nothing after `close`."""
        if self._sound:
            self._sound.close()
            self._sound = None
        with contextlib.suppress(av.FFmpegError, AttributeError, ValueError):
            self._output.close()
        self._file.close()

    def _mux(self, packet: Packet[Any]) -> None:
        # copied sound passes filters of the muxer's own, which take no packet that lost its head on the way; one that
        # waits may fail while the next picture goes in
        with contextlib.suppress(av.error.InvalidDataError):
            self._output.mux(packet)

    def _mux_sound(self) -> None:
        if self._sound:
            for packet in self._sound.until(float(self.frames / self._rate)):
                self._mux(packet)


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """Turns what the disk refuses into a sentence."""
    try:
        yield
    except OSError as error:
        raise DreamActorError(
            f"The video cannot be written to the temporary folder, which TMPDIR names: {error.strerror or error}. "
            "Make room there or choose another."
        ) from error
