"""What is accepted from a stranger: checked from headers, before anything large is decoded."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Limits:
    """Caps on input media. What is over a cap is refused with an InputError that names it."""

    references: int = 8
    image_bytes: int = 64 << 20
    image_pixels: int = 80_000_000
    clip_bytes: int = 512 << 20
    clip_pixels: int = 36_000_000  # of one frame; 8K is 33 million
    clip_seconds: float = 60.0
    clip_frames: int = 1500  # after resampling to the chosen frame rate
    smallest_side: int = 32

    image_side: int = 2048  # larger photos are shrunk to this longest side
    clip_side: int = 1280  # larger frames are shrunk to this longest side while they are decoded
    clip_memory: int = 1 << 30  # decoded frames held at once, in bytes; a long clip is shrunk further to fit

    def for_references(self, most: int) -> Limits:
        """These caps, with at most `most` references: what the engines take."""
        return replace(self, references=min(self.references, most))


def megabytes(size: int) -> str:
    """A byte count for a message: '1.5 MB'."""
    return f"{size / 1e6:.1f} MB"
