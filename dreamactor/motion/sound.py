"""The driving clip's sound, on the clock of its picture, for the output file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from typing import TypeAlias

import av
import av.container
from av.audio.layout import AudioLayout
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet

from dreamactor.errors import InputError
from dreamactor.motion.clip import first_shown, open_media

AudioPacket: TypeAlias = "Packet[AudioStream]"

COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")
"""Codecs that MP4 players take; packets of these are copied, anything else is encoded to AAC."""

RATE = 48000  # Hz of sound that is encoded anew
MP3_RATE = 16000  # Hz below which MP4 holds no MP3
PREROLL = 0.05  # seconds of packets kept before the picture starts: decoders need the one before the first heard


class Sound:
    """Audio packets of one clip, each with its second relative to the first video frame.

    `available` is False when the clip has no sound, or none that can be read. Use `attach` before the first packet.
    """

    def __init__(self, data: bytes) -> None:
        self.available = False
        self._media = contextlib.ExitStack()
        try:
            self._container = self._media.enter_context(open_media(data))
        except InputError:
            return
        source = _played(self._container)
        if source is None:
            return
        self._source: AudioStream = source
        self._start = first_shown(data)
        self._ahead = next((packet for packet in self._read() if packet.size), None)  # it may be announced and empty
        self.available = self._ahead is not None

    def attach(self, output: av.container.OutputContainer) -> None:
        """Adds the audio stream to `output`: the same codec where MP4 can hold it, else AAC."""
        name, rate = self._source.codec.canonical_name, self._source.sample_rate
        copies = name in COPIED and rate >= (MP3_RATE if name == "mp3" else 1)
        if copies:
            self._target = output.add_stream_from_template(self._source)
        else:
            self._target = output.add_stream("aac", rate=RATE)
            self._target.codec_context.layout = "mono" if self._source.channels == 1 else "stereo"
            self._target.codec_context.thread_count = 1
        self._packets = self._copied() if copies else self._encoded()
        self._next: tuple[float, AudioPacket] | None = next(self._packets, None)

    def until(self, seconds: float) -> Iterator[AudioPacket]:
        """The packets that start before `seconds`, as far as not handed out yet."""
        while self._next is not None and self._next[0] < seconds:
            yield self._next[1]
            self._next = next(self._packets, None)

    def close(self) -> None:
        """Frees the source; may be called twice."""
        self._media.close()

    def _copied(self) -> Iterator[tuple[float, AudioPacket]]:
        base = self._source.time_base or Fraction(1, 48000)
        shift = round(self._start / base)
        last = None
        for packet in self._demuxed():
            if packet.dts is None or packet.pts is None or packet.is_corrupt:  # half of one, where the file was cut off
                continue
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            if float((packet.pts + (packet.duration or 0)) * base) <= -PREROLL or (
                last is not None and packet.dts <= last
            ):
                continue
            last = packet.dts
            packet.stream = self._target
            yield float(packet.pts * base), packet

    def _encoded(self) -> Iterator[tuple[float, AudioPacket]]:
        shift = round(self._start * RATE)
        for frame in self._resampled(self._target.codec_context.layout):
            frame.pts = (frame.pts or 0) - shift
            frame.time_base = Fraction(1, RATE)
            if frame.pts < 0:
                continue
            yield from ((float(packet.pts or 0) / RATE, packet) for packet in self._target.encode(frame))
        yield from ((float(packet.pts or 0) / RATE, packet) for packet in self._target.encode(None))

    def _resampled(self, layout: AudioLayout) -> Iterator[av.AudioFrame]:
        """The sound as the encoder takes it, in frames of 1024 samples."""
        framed = AudioResampler(format="fltp", layout=layout, rate=RATE, frame_size=1024)
        for frame in self._alike(layout):
            yield from framed.resample(frame)
        yield from framed.resample(None)

    def _alike(self, layout: AudioLayout) -> Iterator[av.AudioFrame]:
        """The sound in one format: a broadcast may change its channels or its rate on the way."""
        resampler, setup = None, None
        for frame in self._decoded():
            found = (frame.format.name, frame.layout, frame.sample_rate)
            if resampler is None or found != setup:
                if resampler is not None:
                    yield from _converted(resampler, None)
                resampler, setup = AudioResampler(format="fltp", layout=layout, rate=RATE), found
            yield from _converted(resampler, frame)
        if resampler is not None:
            yield from _converted(resampler, None)

    def _decoded(self) -> Iterator[av.AudioFrame]:
        for packet in self._demuxed():
            try:
                decoded = packet.decode()
            except (av.FFmpegError, ValueError):
                continue  # a damaged packet is a gap of 20 ms; the timestamps keep the rest in place
            for frame in decoded:
                if isinstance(frame, av.AudioFrame):
                    # in samples, not in the container's ticks: resampling nothing would leave those as they are
                    tick = Fraction(1, frame.sample_rate)
                    if frame.pts is not None and frame.time_base:
                        frame.pts = round(frame.pts * frame.time_base / tick)
                    frame.time_base = tick
                    yield frame

    def _demuxed(self) -> Iterator[AudioPacket]:
        if self._ahead is not None:
            yield self._ahead
        yield from self._read()

    def _read(self) -> Iterator[AudioPacket]:
        packets = self._container.demux(self._source)
        while True:
            try:
                yield next(packets)
            except (StopIteration, av.FFmpegError, ValueError, OSError):
                return


def _played(container: av.container.InputContainer) -> AudioStream | None:
    """The track that a player would play; where it cannot be read, the first that can. What it is like may not be known
    yet, where it begins late in a broadcast: its rate is 0 then."""
    found = (container.streams.best("audio"), *container.streams.audio)
    tracks = [track for track in found if isinstance(track, AudioStream) and track.codec_context is not None]
    return next((track for track in tracks if track.sample_rate > 0), tracks[0] if tracks else None)


def _converted(resampler: AudioResampler, frame: av.AudioFrame | None) -> list[av.AudioFrame]:
    """What comes out for `frame`, or at the end for None; a frame that cannot be converted is a gap."""
    try:
        return [done for done in resampler.resample(frame) if done is not None]  # None: there was nothing to convert
    except (av.FFmpegError, ValueError):
        return []
