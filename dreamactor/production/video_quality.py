"""A video against another of the same size, over all pixels and frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamactor.fidelity import psnr, ssim


@dataclass(frozen=True)
class VideoQuality:
    """PSNR in dB over all pixels (a mean of decibels would hide one bad frame among good ones), and of each frame;
    SSIM (0..1) of each frame and its mean."""

    whole_psnr: float
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]

    @property
    def mean_ssim(self) -> float:
        return float(np.mean(self.ssim))


def compare(reference: NDArray[np.uint8], found: NDArray[np.uint8]) -> VideoQuality:
    """Both u8 [T,H,W,3]."""
    if reference.shape != found.shape:
        raise ValueError(f"videos of different shape: {reference.shape} and {found.shape}")
    pairs = list(zip(reference, found, strict=True))
    frames, structure = tuple(psnr(a, b) for a, b in pairs), tuple(ssim(a, b) for a, b in pairs)
    return VideoQuality(psnr(reference, found), frames, structure)
