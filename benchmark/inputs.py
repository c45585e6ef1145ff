"""What is measured with beside random tensors (`dreamactor.interfaces`): a real photo and a real clip. No torch."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import av

from dreamactor.motion.assets import media_file

REFERENCE, CLIP = "astronaut.png", "WolfgangLanger_Pexels.mp4"


@dataclass(frozen=True)
class Media:
    """Encoded photo and clip."""

    reference: bytes
    driving: bytes


def media() -> Media:
    """The demo photo and clip; raises MissingDependency with the command that fetches them."""
    return Media(media_file(REFERENCE).read_bytes(), media_file(CLIP).read_bytes())


def lengthened(clip: bytes, seconds: float) -> bytes:
    """The video of an encoded clip, repeated until it lasts `seconds` or more, as MP4 without sound.

    The packets are copied, not encoded again.
    """
    target = io.BytesIO()
    with av.open(io.BytesIO(clip), "r") as source, av.open(target, "w", format="mp4") as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        once = stream.duration or 1
        for turn in range(math.ceil(seconds / float(once * (stream.time_base or 1)))):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.pts is None or packet.dts is None:
                    continue  # the demuxer's last, empty one
                packet.pts += turn * once
                packet.dts += turn * once
                packet.stream = copy
                output.mux(packet)
    return target.getvalue()
