"""PSNR and SSIM of a video against another of the same size, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SAME = 100.0  # dB, reported where no pixel differs


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


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise in dB of one frame, or over all pixels of a video."""
    error = float(np.mean(np.square(a.astype(np.float64) - b.astype(np.float64))))
    return SAME if error == 0 else min(SAME, 10 * float(np.log10(255.0**2 / error)))


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Structural similarity of one frame's luma (Wang et al. 2004): 11x11 Gaussian window, sigma 1.5."""
    x, y = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY).astype(np.float64) for frame in (a, b))

    def blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.GaussianBlur(values, (11, 11), 1.5), np.float64)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    score = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    score /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float(score.mean())
