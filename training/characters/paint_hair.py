"""Hair: the texture of the shell over the skull, what hangs behind the head, the brim of a cap."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from dreamactor.training.characters.character import Character
from dreamactor.training.characters.paint import Image, Points, View, capsule, disk, halved, polygon, tint

DEGREE = 1.5  # texture pixels a degree at level 0
HAIR_SHELL = {
    "bald": 0.0,
    "short": 1.07,
    "medium": 1.12,
    "bob": 1.14,
    "long": 1.13,
    "bun": 1.08,
    "curly": 1.24,
    "cap": 1.1,
}
SIDE_HAIR = {"short": -6.0, "medium": 12.0, "bob": 62.0, "long": 80.0, "bun": -4.0, "curly": 26.0, "cap": -12.0}
HAIR_LAYERS = ((1.0, 0.8), (0.85, 0.92), (0.55, 1.0))


@lru_cache(maxsize=64)
def hair_texture(character: Character, level: int) -> Image:
    """RGBA: where the hair shell is hair."""
    rng = np.random.default_rng([character.seed, 2])
    height, width = int(180 * DEGREE), int(360 * DEGREE)
    noise = rng.normal(size=(3, width // 3)) if character.hair_style != "curly" else rng.normal(size=(36, width // 4))
    strands = cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    color = character.shirt_second if character.hair_style == "cap" else character.hair
    amount = {"curly": 0.22, "cap": 0.03}.get(character.hair_style, 0.14)
    texture = np.zeros((height, width, 4), np.uint8)
    texture[..., :3] = np.clip(np.array(color) * (1 + amount * strands[..., None]), 0, 255)
    lon = np.abs((np.arange(width) / DEGREE) - 180)
    side = SIDE_HAIR.get(character.hair_style, 0.0)
    parting = rng.uniform(-25, 25)
    top = -46 + 9 * np.cos(np.deg2rad(((np.arange(width) / DEGREE) - 180 - parting) * 2.2)) + rng.uniform(-6, 8)
    if character.hair_style == "cap":
        top[:] = -32
    back = max(side, 34.0)
    edge = np.where(
        lon < 56, top, np.interp(lon, [56, 74, 105, 125, 180], [float(np.mean(top)), side, side, back, back])
    )
    lat = (np.arange(height) / DEGREE - 90)[:, None]
    texture[..., 3] = np.clip((edge[None] - lat) * 40 + 128, 0, 255)
    if character.hair_style == "bald":
        texture[..., 3] = 0
    return halved(texture, level)


def draw_brim(
    canvas: Image, character: Character, centre: tuple[float, float], radius: float, rotation: Points
) -> None:
    lon = np.deg2rad(np.linspace(-62, 62, 9))
    inner = np.stack([0.86 * np.sin(lon), np.full(9, -0.5), -0.95 * np.cos(lon)], 1)
    outer = np.stack([0.98 * np.sin(lon), np.full(9, -0.42), -1.5 * np.cos(lon)], 1)
    ring = np.concatenate([inner, outer[::-1]]) @ rotation.T
    if ring[:, 2].mean() < 0.3:
        polygon(canvas, ring[:, :2] * radius + np.array(centre), tint(character.shirt_second, 0.72))


def draw_back_hair(
    canvas: Image, view: View, character: Character, centre: Points, rotation: Points, front: bool
) -> None:
    """Long hair, a bob or a bun: behind the head, or (`front`) over it when the person is turned away."""
    if character.hair_style not in ("long", "bob", "bun"):
        return
    radius = character.body.head * view.scale
    away = rotation[2, 2] < 0  # the face looks from the camera
    if away != front:
        return
    x, y = (float(v) for v in view.project(centre))
    if character.hair_style == "bun":
        place = rotation @ np.array([0, -0.75, 0.85])
        disk(canvas, x + place[0] * radius, y + place[1] * radius, 0.38 * radius, tint(character.hair, 0.82))
        disk(
            canvas,
            x + (place[0] - 0.06) * radius,
            y + (place[1] - 0.08) * radius,
            0.28 * radius,
            tint(character.hair, 0.98),
        )
        return
    length = 1.75 if character.hair_style == "long" else 0.55
    back = rotation @ np.array([0, 0.05, 0.3])
    down = rotation @ np.array([0, 1.0, 0]) + np.array([0, 0.9, 0])
    down /= max(float(np.linalg.norm(down)), 1e-6)
    top = np.array([x, y]) + back[:2] * radius
    tip = top + down[:2] * radius * length
    width = radius * (character.face.width + 0.1)
    capsule(canvas, view, top, tip, width, width * 0.9, tint(character.hair, 0.9), HAIR_LAYERS)
