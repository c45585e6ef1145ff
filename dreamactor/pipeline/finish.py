"""Last stage: latents to an MP4 with the driving clip's sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dreamactor.engines.session import Session
from dreamactor.motion.video import VideoWriter
from dreamactor.pipeline.prepare import Float, Framing
from dreamactor.presets import DECODER_CONTEXT, TEMPORAL_STRIDE


class Finisher:
    """Takes the segments' latents in order, decodes each as it comes, and hands out the encoded video at the end."""

    def __init__(self, vae_decoder: Session, framing: Framing, driving: bytes) -> None:
        self._decoder = vae_decoder
        self._framing = framing
        self._writer = VideoWriter(framing.fps, framing.crop[2:], audio_from=driving)
        self._past: Float | None = None
        self._written = 0

    def add(self, latent: Float) -> NDArray[np.uint8]:
        """Decodes a segment's latent [16,F,h,w] and returns its new frames [T,height,width,3].

        Every segment but the first starts with the latent carried over, which is not decoded twice.
        """
        if self._past is None:
            frames, self._past = self._decode(latent), latent
        else:
            past = self._past[:, -DECODER_CONTEXT:]
            window = np.concatenate([past, latent[:, 1:]], 1)
            frames = self._decode(window)[1 + TEMPORAL_STRIDE * (past.shape[1] - 1) :]
            self._past = window
        frames = frames[: self._framing.frames - self._written]
        top, left, height, width = self._framing.crop
        frames = np.ascontiguousarray(frames[:, top : top + height, left : left + width])
        for frame in frames:
            self._writer.write(frame)
        self._written += len(frames)
        return frames

    def close(self) -> bytes:
        """The finished MP4."""
        return self._writer.close()

    def abort(self) -> None:
        """Drops what was encoded so far."""
        self._writer.abort()

    def _decode(self, latent: Float) -> NDArray[np.uint8]:
        video: NDArray[np.uint8] = self._decoder.run({"latent": latent[None]})["video"][0]
        return video.transpose(1, 2, 3, 0)
