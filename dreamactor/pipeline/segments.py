"""How a long clip is cut: each segment starts with the last latent of the one before (arXiv 2504.01724, section 3.4).

That carried latent covers four video frames although it stands where a segment's first latent, which covers one,
stands. Its controls are of the four, its face of the last of them; training shows the network both kinds.
"""

from __future__ import annotations

from dataclasses import dataclass

from dreamactor.presets import POSE_CONTEXT, TEMPORAL_STRIDE, video_frames


@dataclass(frozen=True)
class Segment:
    """`latents` latent frames from global latent frame `start` on; all but the first segment carry their first one."""

    index: int
    start: int
    latents: int

    @property
    def carried(self) -> bool:
        return self.index > 0

    @property
    def first_frame(self) -> int:
        """Video frame at the segment's first latent: the last of the four that a carried latent covers."""
        return self.start * TEMPORAL_STRIDE

    @property
    def frames(self) -> int:
        """Video frames of the segment, from `first_frame` on, 4k+1."""
        return video_frames(self.latents)

    @property
    def face_frames(self) -> slice:
        """Video frames whose faces the segment attends to: its own."""
        return slice(self.first_frame, self.first_frame + self.frames)

    @property
    def pose_frames(self) -> slice:
        """Video frames whose controls are encoded. Before a carried latent's own four comes the one that the encoder's
        first latent covers, which is then left out."""
        return slice(self.first_frame - POSE_CONTEXT * TEMPORAL_STRIDE * self.carried, self.first_frame + self.frames)

    @property
    def pose_context(self) -> int:
        """Latents to leave out of the encoded controls."""
        return POSE_CONTEXT * self.carried


def total_latents(frames: int) -> int:
    """Latent frames that cover `frames` video frames, the last group filled up by repeating the last frame."""
    return 1 + -(-(frames - 1) // TEMPORAL_STRIDE)


def plan(frames: int, segment_latents: int) -> list[Segment]:
    """Segments of at most `segment_latents` latent frames that cover `frames` video frames."""
    total, start = total_latents(frames), 0
    segments: list[Segment] = []
    while True:
        count = min(segment_latents, total - start)
        segments.append(Segment(len(segments), start, count))
        if start + count >= total:
            return segments
        start += count - 1
