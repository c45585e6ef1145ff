"""Clips in: bytes of any usual video to upright RGB frames at a fixed rate."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
import av.container
import numpy as np
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dreamactor.errors import InputError
from dreamactor.motion.limits import Limits, megabytes
from dreamactor.motion.upright import NAME, Upright

CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "gif", "mjpeg")
LATE = 0.002  # seconds by which a timestamp may be rounded up by its container and still count as on time
SAID = 0.5  # seconds of pictures that are left out or missing, from which on it is said
WHOLE = 0.9  # share of the announced duration that must be decodable for a file to count as whole


@dataclass(frozen=True)
class Clip:
    """A decoded clip: frames uint8 RGB [T, H, W, 3], and what is to be said about it."""

    frames: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


def decode_clip(
    data: bytes,
    fps: float,
    limits: Limits = Limits(),
    max_frames: int | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> Clip:
    """Decodes a video to `fps` frames a second: at time k / fps the frame a player would show then.

    Rotation, mirroring and non-square pixels are undone, large frames shrunk while decoding, transparency laid on white
    (not WebM's, which FFmpeg's own decoders of VP8 and VP9 leave out).
    At most `max_frames` are taken from the start; `on_frame(done, expected)` is called for each and may raise to stop.
    Raises InputError for what is empty, damaged, no video, a single picture, or over a limit.
    """
    if not data:
        raise InputError(f"Empty file: {NAME} has 0 bytes; give a video (MP4, MOV, WebM, ...).")
    if len(data) > limits.clip_bytes:
        raise InputError(
            f"Too large: {NAME} has {megabytes(len(data))}; the limit for a clip is {megabytes(limits.clip_bytes)}."
        )
    if max_frames is not None and not 2 <= max_frames <= limits.clip_frames:
        raise InputError(f"max_frames is {max_frames}; at least 2 and at most {limits.clip_frames} are taken.")
    return _decoded(data, fps, limits, max_frames, on_frame)


def _decoded(
    data: bytes,
    fps: float,
    limits: Limits,
    max_frames: int | None,
    on_frame: Callable[[int, int], None] | None,
    expected: int | None = None,
) -> Clip:
    """`decode_clip` past its checks; `expected` frames come, or as many as the header announces."""
    with open_media(data) as container:
        stream = video_stream(container)
        wanted = expected or _expected(container, stream, fps, limits, max_frames)
        decoder = _Decoder(container, stream, limits, wanted)
        most = _most_frames(limits, fps) + 1 if max_frames is None else max_frames
        buffer: NDArray[np.uint8] | None = None
        count = 0
        for frame in decoder.pictures(fps):
            if buffer is None:  # untouched pages cost nothing, so the spare tenth is free
                buffer = np.empty((min(wanted + wanted // 10 + 2, most), *frame.shape), np.uint8)
            if count == len(buffer) < most:  # the header announced less
                if 2 * buffer.nbytes > limits.clip_memory:  # smaller ones fit
                    return _decoded(data, fps, limits, max_frames, on_frame, expected=most)
                buffer = np.concatenate([buffer, np.empty_like(buffer)])[:most]
            if count >= len(buffer):
                raise _too_long(f"more than {count} frames at {fps:g} fps", limits)
            buffer[count] = frame
            count += 1
            if on_frame:
                on_frame(count, wanted)
            if count == max_frames:
                break
        else:
            decoder.check_whole()
        if buffer is None:
            raise InputError(f"No frame of {NAME} can be decoded; it is damaged or truncated.")
        if count < 2:
            raise InputError(f"Too short: {NAME} has 1 frame at {fps:g} fps; motion needs at least 2.")
        return Clip(buffer[:count], tuple(decoder.notes))


@contextmanager
def open_media(data: bytes) -> Iterator[av.container.InputContainer]:
    """Opens encoded media; playlists and formats that read other files or addresses are not among those accepted."""
    options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "pipe"}
    try:
        container = av.open(io.BytesIO(data), "r", options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError, OSError) as error:
        raise InputError(
            f"Not a video: {NAME} is truncated or in no format this system reads "
            f"({', '.join(CONTAINERS)}): {_reason(error)}."
        ) from error
    with container:
        yield container


def video_stream(container: av.container.InputContainer) -> VideoStream:
    """The first real video stream; cover art does not count."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise InputError(f"{NAME} has a video stream in a codec that this system does not read.")
            return stream
    raise InputError(f"No video: {NAME} is a {container.format.name} file without a video stream.")


def first_shown(data: bytes) -> float:
    """Seconds at which the first picture is shown, on the clock the container's streams share: the stream's start, or
    the first keyframe of a stream that was cut, which begins with what cannot be decoded. 0 for a clip without one."""
    try:
        with open_media(data) as container:
            stream = video_stream(container)
            tick = stream.time_base or 0
            for index, packet in enumerate(container.demux(stream)):
                if packet.is_keyframe and packet.size:
                    # an AVI's timestamps are guesses, its start is not
                    return float((stream.start_time if index == 0 else packet.pts) or 0) * float(tick)
    except (InputError, av.FFmpegError, ValueError, OSError):
        pass
    return 0.0


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _too_long(found: str, limits: Limits) -> InputError:
    return InputError(
        f"Too long: {NAME} has {found}; the limit is {limits.clip_seconds:g} s and {limits.clip_frames} frames. "
        "Cut it, or take only its start with max_frames."
    )


def _expected(
    container: av.container.InputContainer, stream: VideoStream, fps: float, limits: Limits, max_frames: int | None
) -> int:
    """Checks size and duration as the header has them; returns how many frames will come at most."""
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > limits.clip_pixels:
        raise InputError(
            f"Too many pixels: {NAME} has frames of {width}x{height}; the limit is {limits.clip_pixels} pixels a frame."
        )
    if min(width, height) < limits.smallest_side:
        raise InputError(f"Too small: {NAME} has frames of {width}x{height}; each side needs {limits.smallest_side}.")
    stream.codec_context.options = {"max_pixels": str(limits.clip_pixels)}
    most = _most_frames(limits, fps)
    seconds, of_picture = _duration(container, stream)
    if of_picture and max_frames is None and seconds * fps > most + 1:
        raise _too_long(f"{seconds:.1f} s", limits)
    known = max(1, round(seconds * fps)) if seconds else limits.clip_frames
    if not of_picture and max_frames is None:
        known = min(known, most)
    return min(known, max_frames or known)


def _most_frames(limits: Limits, fps: float) -> int:
    return min(limits.clip_frames, math.ceil(limits.clip_seconds * fps))


def _duration(container: av.container.InputContainer, stream: VideoStream) -> tuple[float, bool]:
    """Announced seconds (0 when the container does not say), and whether they are the picture's: Matroska and FLV
    announce only when their last stream ends, and that counted from 0, where the first may begin later."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base), True
    alone = len(container.streams) == 1 and not container.start_time
    return container.duration / av.time_base if container.duration else 0.0, alone


class _Decoder:
    """Frames of one stream with the seconds at which each is shown."""

    def __init__(
        self, container: av.container.InputContainer, stream: VideoStream, limits: Limits, wanted: int
    ) -> None:
        self._rate = float(stream.average_rate or stream.guessed_rate or 25)
        self.notes: list[str] = []
        self._container, self._stream = container, stream
        self._announced, self._of_picture = _duration(container, stream)
        self._lead = 0.0  # seconds before the first frame that cannot be decoded: a stream that was cut
        self._clock = (container.start_time or 0) / av.time_base
        self._reached = 0.0  # seconds at which the last packet of any stream ends
        self._picture = Upright(limits, wanted, float(stream.sample_aspect_ratio or 1) or 1.0, self.notes)
        self._decoded = 0.0
        self._left_out = 0  # pictures whose time goes back
        self._error = ""
        stream.thread_type = "AUTO"

    def pictures(self, fps: float) -> Iterator[NDArray[np.uint8]]:
        """For k = 0, 1, ... the frame shown at k / fps, until the last frame ends (rounded to the nearest count)."""
        count = 0
        shown: av.VideoFrame | None = None
        picture: NDArray[np.uint8] | None = None  # of `shown`, converted only when it is asked for
        for start, frame in self._timed():
            while shown is not None and count / fps < start - LATE:
                picture = self._picture(shown) if picture is None else picture
                yield picture
                count += 1
            shown, picture = frame, None
        while shown is not None and count < max(1, round(self._decoded * fps)):
            picture = self._picture(shown) if picture is None else picture
            yield picture
            count += 1

    def _timed(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Each frame with the second at which it is shown, in that order, the first at 0."""
        first: float | None = None
        last, index, gap = -1.0, 0, 0.0
        paced = self._container.format.name == "avi"  # it has no times of showing: pictures come at the packets' pace
        for frame in self._frames_until_damage():
            tick = float(frame.time_base) if frame.time_base is not None else 0.0
            shown = frame.dts if paced else frame.pts
            if shown is not None and tick:
                seconds = shown * tick
            elif paced and first is not None:  # the last ones, for which no packet came
                seconds = first + last + (gap or 1 / self._rate)
            else:
                seconds = index / self._rate
            index += 1
            if first is None:
                first = seconds
                self._lead = max(0.0, first - float((self._stream.start_time or 0) * tick))
            if seconds - first <= last:
                self._left_out += 1
                continue  # a timestamp that goes back cannot be shown
            gap = seconds - first - last if last >= 0 else 0.0
            last = seconds - first
            length = frame.duration * tick if frame.duration else 0.0
            if length < 0.5 / self._rate:  # the last frame's is often left out
                length = gap or 1 / self._rate
            self._decoded = last + length
            yield last, frame

    def check_whole(self) -> None:
        """Raises InputError when the file ends long before the duration it announces."""
        there, announced = self._lead + self._decoded, self._announced
        if not self._of_picture:
            there, announced = max(there, self._reached), announced - self._clock
        if there < WHOLE * announced - 1 / self._rate:
            reason = f" ({self._error})" if self._error else ""
            raise InputError(
                f"Truncated or damaged: {NAME} announces {announced:.1f} s and only {there:.1f} s "
                f"can be decoded{reason}."
            )
        if announced - there > SAID + 1 / self._rate and not self._error:
            self.notes.append(f"{NAME} announces {announced:.1f} s and ends after {there:.1f} s; the rest is missing")
        if (left_out := self._left_out / self._rate) >= SAID:
            self.notes.append(
                f"in {NAME} time goes back, as where recordings are joined: {left_out:.1f} s are left out"
            )
        if self._error:
            self.notes.append(f"part of {NAME} is damaged and was passed over ({self._error})")

    def _frames_until_damage(self) -> Iterator[av.VideoFrame]:
        wanted = [self._stream] if self._of_picture else list(self._container.streams)
        packets = self._container.demux(*wanted)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, ValueError, OSError) as error:
                self._error = _reason(error)
                return
            if packet.pts is not None and packet.time_base:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self._reached = max(self._reached, end - self._clock)
            if packet.stream is not self._stream:
                continue
            try:
                decoded = packet.decode()
            except (av.FFmpegError, ValueError) as error:
                self._error = _reason(error)
                continue
            for frame in decoded:
                if isinstance(frame, av.VideoFrame):
                    yield frame
