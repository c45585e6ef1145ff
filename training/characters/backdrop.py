"""Backgrounds: gradients, cloudy textures, simple rooms and outdoor scenes."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from dreamactor.training.characters.paint import Image


def make_backdrop(rng: np.random.Generator, height: int, width: int, floor: float | None = None) -> Image:
    """A background, uint8 [height, width, 3]. `floor` is the height (0..1) at which a floor begins, if it shows."""
    kind = rng.choice(["gradient", "clouds", "room", "room", "outdoor"])
    line = float(rng.uniform(0.6, 0.8)) if floor is None else floor
    if kind == "gradient":
        image = _gradient(rng, height, width)
    elif kind == "clouds":
        image = _gradient(rng, height, width)
        noise = cv2.resize(
            rng.normal(size=(6, 6, 3)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
        image = image + 16 * noise
    elif kind == "room":
        image = _room(rng, height, width, line)
    else:
        image = _outdoor(rng, height, width, line)
    blur = rng.uniform(0.5, 2.5) * width / 256
    return np.asarray(np.clip(cv2.GaussianBlur(image.astype(np.float32), (0, 0), blur), 0, 255), np.uint8)


def _color(rng: np.random.Generator, low: float = 0.25, high: float = 0.9, saturation: float = 0.4) -> np.ndarray:
    hsv = float(rng.random()), float(rng.uniform(0.02, saturation)), float(rng.uniform(low, high))
    return np.array(colorsys.hsv_to_rgb(*hsv)) * 255


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    a, b = _color(rng), _color(rng)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:height, 0:width]
    weight = (np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5)) * 0.7 + 0.5
    return np.asarray(a + (b - a) * weight[..., None])


def _room(rng: np.random.Generator, height: int, width: int, line: float) -> np.ndarray:
    wall, floor = _color(rng, 0.4, 0.95, 0.3), _color(rng, 0.2, 0.6, 0.5)
    image = np.empty((height, width, 3))
    edge = int(height * line)
    image[:edge] = wall
    image[edge:] = floor
    image *= np.linspace(1.06, 0.9, width)[None, :, None]
    image[max(edge - height // 60, 0) : edge] = wall * 0.7
    for _ in range(int(rng.integers(0, 4))):  # pictures, windows, furniture
        x, w = int(rng.uniform(-0.1, 0.9) * width), int(rng.uniform(0.12, 0.4) * width)
        y, h = int(rng.uniform(0.02, 0.6) * edge), int(rng.uniform(0.15, 0.5) * edge)
        frame, inner = _color(rng, 0.15, 0.6), _color(rng, 0.3, 0.95)
        if rng.random() < 0.4:
            y, h = edge - h, h + int(0.04 * height)
        border = max(2, width // 60)
        cv2.rectangle(image, (x, y), (x + w, y + h), frame.tolist(), -1)
        cv2.rectangle(image, (x + border, y + border), (x + w - border, y + h - border), inner.tolist(), -1)
    return image


def _outdoor(rng: np.random.Generator, height: int, width: int, line: float) -> np.ndarray:
    top, low = np.array([110.0, 160, 220]) + rng.normal(0, 20, 3), np.array([205.0, 220, 235]) + rng.normal(0, 12, 3)
    ground = np.array([110.0, 130, 80]) + rng.normal(0, 25, 3)
    edge = int(height * line)
    image = np.empty((height, width, 3))
    image[:edge] = top + (low - top) * np.linspace(0, 1, edge)[:, None, None]
    image[edge:] = ground * np.linspace(1.1, 0.8, height - edge)[:, None, None]
    hills = np.cumsum(rng.normal(size=9))
    hills = np.interp(np.linspace(0, 8, width), np.arange(9), hills - hills.mean()) * 0.03 * height
    shade = np.array([90.0, 115, 100]) + rng.normal(0, 18, 3)
    for x in range(width):
        image[max(0, int(edge - 0.12 * height + hills[x])) : edge, x] = shade
    return image
