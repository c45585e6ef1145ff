"""The measures of every gate, on differences that are known."""

from __future__ import annotations

import numpy as np
import pytest

from dreamactor.fidelity import PERFECT, psnr, signal_to_noise, ssim


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


def test_signal_to_noise_is_that_of_a_known_error() -> None:
    signal = np.full((4, 4), 10.0, np.float32)
    assert signal_to_noise(signal, signal + 1) == pytest.approx(20)
    assert signal_to_noise(signal, signal) == PERFECT
    assert signal_to_noise(signal.astype(np.float16), signal) == PERFECT
    for broken in (np.full((4, 4), np.nan, np.float32), np.full((4, 4), np.inf, np.float32)):
        assert signal_to_noise(signal, broken) == signal_to_noise(broken, signal) == float("-inf")


def test_psnr_is_that_of_a_known_error() -> None:
    frame = np.full((16, 16, 3), 100, np.uint8)
    assert psnr(frame, frame + 10) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(frame, frame) == 100.0


def test_ssim_falls_with_structure_lost_and_not_with_a_shift_of_brightness() -> None:
    frame = picture()
    shuffled = np.random.default_rng(1).permutation(frame.reshape(-1, 3)).reshape(frame.shape)
    brighter = np.clip(frame.astype(int) + 8, 0, 255).astype(np.uint8)
    assert ssim(frame, frame) == pytest.approx(1.0)
    assert ssim(frame, brighter) > 0.95
    assert ssim(frame, shuffled) < 0.3
