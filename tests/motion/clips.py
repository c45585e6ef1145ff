"""Clips made on the spot, in which every picture and every sound says when it belongs."""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition


def make_clip(
    times: Sequence[float],
    size: tuple[int, int] = (64, 96),
    container: str = "mp4",
    codec: str = "libx264",
    sound: str | None = None,
    pictures: Sequence[np.ndarray] | None = None,
    duration: float | None = None,
    matrix: bytes | None = None,
    sound_rate: int = 48000,
    keyframe_every: int = 250,
    buffer: io.BytesIO | None = None,
    form: str | None = None,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """A frame at each of `times` (seconds), its grey level 10 + 4 * index; `sound` is a codec: a click each second, for
    `duration` seconds (0: the stream is announced and has nothing). `pictures` may be RGBA; `form` is of the stream's
    pixels, which are `aspect` times as wide as high; `options` are the container's."""
    buffer = buffer or io.BytesIO()
    with av.open(buffer, "w", format=container, options=options or {}) as output:
        video = output.add_stream(codec, rate=30, options={"g": str(keyframe_every)})
        video.height, video.width = size
        video.pix_fmt = form or ("yuv444p" if codec == "libx264" else "yuv420p")
        if aspect is not None:
            video.codec_context.sample_aspect_ratio = aspect
        video.codec_context.time_base = video.time_base = Fraction(1, 1000)
        audio = output.add_stream(sound, rate=sound_rate) if sound else None
        packets = []
        for index, time in enumerate(times):
            level = 10 + 4 * (index % 60)
            picture = np.full((*size, 3), level, np.uint8) if pictures is None else pictures[index]
            colors = "rgba" if picture.shape[-1] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(picture, format=colors).reformat(format=video.pix_fmt)
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode(None)
        stamps = [round(time * 1000) for time in times]
        lengths = np.diff(stamps, append=2 * stamps[-1] - stamps[-2] if len(stamps) > 1 else stamps[-1] + 100)
        for packet in packets:
            packet.duration = int(lengths[stamps.index(packet.pts)])
            output.mux(packet)
        if audio is not None and duration != 0:
            for frame in clicks(duration or times[-1], audio):
                output.mux(audio.encode(frame))
            output.mux(audio.encode(None))
    content = buffer.getvalue()
    if matrix is not None:
        at = content.index(b"tkhd") + 4 + 40
        content = content[:at] + matrix + content[at + 36 :]
    return content


def make_broadcast() -> bytes:
    """Four seconds of MPEG-TS whose MP2 sound, a click each second, goes from 48 kHz stereo to 32 kHz mono half way."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as output, av.open(io.BytesIO(), "w", format="mpegts") as other:
        before, after = output.add_stream("mp2", rate=48000), other.add_stream("mp2", rate=32000)
        after.codec_context.layout = "mono"
        add_picture(output, 4)
        for start, stream in ((0, before), (2, after)):
            for packet in [packet for frame in [*clicks(2.0, stream), None] for packet in stream.encode(frame)]:
                packet.pts += round(start / packet.time_base)
                packet.dts, packet.stream = packet.pts, before
                output.mux(packet)
    return buffer.getvalue()


def make_late_broadcast(late: int, codec: str) -> bytes:
    """MPEG-TS of `late` + 3 seconds whose sound, a click each second, begins `late` seconds after the picture."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as output:
        audio = output.add_stream(codec, rate=48000)
        add_picture(output, late)  # all before the first of the sound
        for packet in [packet for frame in [*clicks(3.0, audio), None] for packet in audio.encode(frame)]:
            packet.pts += round(late / packet.time_base)
            packet.dts = packet.pts
            output.mux(packet)
    return buffer.getvalue()


def make_vorbis() -> bytes:
    """Five seconds of Matroska, whose ticks are milliseconds, with a click each second in 48 kHz stereo Vorbis."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        audio = output.add_stream("vorbis", rate=48000, options={"strict": "experimental"})
        add_picture(output, 5)
        for frame in [*clicks(5.0, audio), None]:
            output.mux(audio.encode(frame))
    return buffer.getvalue()


def shifted(data: bytes, seconds: float) -> bytes:
    """The same packets in Matroska, `seconds` later: a recording that was cut, with the clock it had."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(buffer, "w", format="matroska") as output:
        streams = [output.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.dts is not None:
                late = round(seconds / packet.time_base)
                packet.pts, packet.dts = packet.pts + late, packet.dts + late
                packet.stream = streams[packet.stream_index]
                output.mux(packet)
    return buffer.getvalue()


def with_second_track(data: bytes, later: float, default: int) -> bytes:
    """Matroska with the sound twice, the second time `later` seconds late; `default` is the track that is marked so."""
    buffer = io.BytesIO()
    options = {"default_mode": "passthrough"}
    with (
        av.open(io.BytesIO(data)) as source,
        av.open(io.BytesIO(shifted(data, later))) as late,
        av.open(buffer, "w", format="matroska", options=options) as output,
    ):
        picture = output.add_stream_from_template(source.streams.video[0])
        tracks = [output.add_stream_from_template(clip.streams.audio[0]) for clip in (source, late)]
        for index, track in enumerate(tracks):
            track.disposition = Disposition.default if index == default else Disposition(0)
        for clip, wanted in ((source, {0: picture, 1: tracks[0]}), (late, {1: tracks[1]})):
            for packet in clip.demux():
                if packet.dts is not None and packet.stream_index in wanted:
                    packet.stream = wanted[packet.stream_index]
                    output.mux(packet)
    return buffer.getvalue()


def add_picture(output: av.container.OutputContainer, seconds: int) -> None:
    """Ten black frames a second; call it when all streams are added."""
    video = output.add_stream("libx264", rate=10)
    video.height, video.width, video.pix_fmt = 64, 96, "yuv420p"
    for _ in range(10 * seconds):
        output.mux(video.encode(av.VideoFrame(96, 64, "yuv420p")))
    output.mux(video.encode(None))


def clicks(seconds: float, stream: av.AudioStream) -> list[av.AudioFrame]:
    """A 10 ms burst at every whole second of otherwise silent sound, in the encoder's format."""
    wave = np.zeros(round(seconds * 48000), np.float32)
    for second in range(int(np.ceil(seconds))):
        burst = wave[second * 48000 : second * 48000 + 480]
        burst[:] = 0.8 * np.sin(np.arange(len(burst)) * 2 * np.pi / 48)
    frame = av.AudioFrame.from_ndarray(wave[None], format="flt", layout="mono")
    frame.rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
    context = stream.codec_context
    resampler = av.AudioResampler(context.format, context.layout, stream.rate, frame_size=1024)
    return resampler.resample(frame) + resampler.resample(None)


def heard(data: bytes) -> list[float]:
    """The seconds at which the clicks of a file begin, on the clock of its first video frame."""
    with av.open(io.BytesIO(data)) as container:
        video = container.streams.video[0]
        zero = float((video.start_time or 0) * video.time_base)
        level = np.zeros(0, np.float32)
        for frame in container.decode(container.streams.audio[0]):
            samples = frame.to_ndarray().astype(np.float32)
            mono = np.abs(samples if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels).T).max(0)
            start = round((frame.pts * float(frame.time_base) - zero) * frame.rate)
            if start < 0:
                mono, start = mono[-start:], 0
            level = np.pad(level, (0, max(0, start + len(mono) - len(level))))
            level[start : start + len(mono)] = np.maximum(level[start : start + len(mono)], mono)
            rate = frame.rate
    loud = np.flatnonzero(level > 0.4 * level.max())
    return [float(i) / rate for n, i in enumerate(loud) if n == 0 or i - loud[n - 1] > rate / 2]
