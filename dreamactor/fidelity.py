"""How near one thing comes to another, in the measures of every gate: arrays in decibels, pictures in PSNR and SSIM."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PERFECT = 200.0  # dB of signal-to-noise, reported where nothing differs
SAME = 100.0  # dB of PSNR, reported where no pixel differs


def signal_to_noise(reference: NDArray[Any], found: NDArray[Any]) -> float:
    """10 log10 of the reference's power over the difference's, in dB; -inf where either is not finite."""
    exact, other = reference.astype(np.float64), found.astype(np.float64)
    if not (np.isfinite(exact).all() and np.isfinite(other).all()):
        return float("-inf")
    signal, noise = float(np.square(exact).sum()), float(np.square(exact - other).sum())
    return PERFECT if noise == 0 else min(PERFECT, 10 * float(np.log10(max(signal, 1e-30) / noise)))


def relative_error(reference: NDArray[Any], found: NDArray[Any]) -> float:
    """L2 norm of the difference over that of the reference; NaN where either has one."""
    exact = reference.astype(np.float64)
    return float(np.linalg.norm(found.astype(np.float64) - exact)) / max(float(np.linalg.norm(exact)), 1e-12)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise in dB of one frame, or over all pixels of a video."""
    error = float(np.mean(np.square(a.astype(np.float64) - b.astype(np.float64))))
    return SAME if error == 0 else min(SAME, 10 * float(np.log10(255.0**2 / error)))


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Structural similarity of one RGB frame's luma (Wang et al. 2004): 11x11 Gaussian window, sigma 1.5."""
    import cv2

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
