"""The head: a lit ellipsoid with a painted face, ray-cast for every head rotation, with hair, ears and a nose.

The face is drawn flat, in longitude and latitude (0, 0 is the middle of the face; latitude grows to the chin), then
laid on the ellipsoid. Lengths on the head are in head radii.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from dreamactor.training.characters.character import Character, Color, mix
from dreamactor.training.characters.paint import (
    Image,
    Points,
    View,
    disk,
    ellipse,
    ellipse_points,
    halved,
    polygon,
    stroke,
    tint,
)
from dreamactor.training.characters.paint_hair import DEGREE, HAIR_SHELL, draw_brim, hair_texture

MOUTH_INSIDE: Color = (62, 18, 24)
TEETH: Color = (238, 234, 226)
TONGUE: Color = (176, 84, 88)


class FaceCanvas:
    """A face texture at one level of detail, addressed in degrees."""

    def __init__(self, image: Image, level: int) -> None:
        self.image = image
        self.unit = DEGREE / (1 << level)

    def at(self, points: Points) -> Points:
        """(longitude, latitude) in degrees [N, 2] to texture pixels."""
        return np.asarray((points + np.array([180.0, 90.0])) * self.unit)

    def shape(self, points: Sequence[tuple[float, float]] | Points, color: Color) -> None:
        polygon(self.image, self.at(np.asarray(points, float)), color)

    def oval(self, lon: float, lat: float, rx: float, ry: float, color: Color) -> None:
        self.shape(ellipse_points(lon, lat, rx, ry), color)

    def line(self, points: Sequence[tuple[float, float]] | Points, color: Color, width: float) -> None:
        stroke(self.image, self.at(np.asarray(points, float)), color, width * self.unit)


@lru_cache(maxsize=64)
def _skin_texture(character: Character, level: int) -> Image:
    """What does not move: skin, cheeks, beard, the shadow under the hair."""
    base = np.empty((int(180 * DEGREE), int(360 * DEGREE), 3), np.uint8)
    base[:] = character.skin
    face = FaceCanvas(base, 0)
    for lon in (-38.0, 38.0):
        for size, weight in ((17, 0.06), (12, 0.12), (7, 0.18)):
            face.oval(lon, 20, size, size * 0.8, mix(character.skin, (214, 96, 88), weight))
    if character.beard:
        color = mix(character.skin, character.hair, character.beard)
        face.shape([(-80, 2), (-62, 12), (-36, 24), (0, 22), (36, 24), (62, 12), (80, 2), (84, 85), (-84, 85)], color)
    for side in (-1, 1):  # the sockets of the eyes
        face.oval(side * character.face.eye_distance, character.face.eye_height - 1, 15, 10, tint(character.skin, 0.9))
    base = np.asarray(cv2.GaussianBlur(base, (0, 0), 5), np.uint8)
    return halved(base, level)


def face_texture(character: Character, expression: dict[str, float], level: int) -> Image:
    """The whole head's skin with the face of this moment, uint8 [180 * unit, 360 * unit, 3]."""
    face = FaceCanvas(_skin_texture(character, level).copy(), level)
    shape = character.face
    _mouth(face, character, expression)
    dark = mix(character.skin, (40, 14, 12), 0.45)
    for side in (-1, 1):
        _eye(face, character, expression, side)
        lift = -5.5 * expression["brow"] + shape.eye_height
        inner = lift + 4.5 * expression["furrow"]
        brow = [(side * 10, inner - 10.5), (side * 20, lift - 15.5), (side * 32, lift - 14.5), (side * 38, lift - 10.5)]
        color = mix(character.hair, (30, 20, 18), 0.45) if character.hair_style != "bald" else dark
        face.line(brow, color, 3.4 * shape.brow_thickness)
        face.oval(side * 5.0 * shape.nose, 18.5, 2.3, 1.5, dark)  # nostrils
    if character.glasses:
        for side in (-1, 1):
            rim = ellipse_points(side * shape.eye_distance, shape.eye_height, 15, 12)
            face.line(np.concatenate([rim, rim[:1]]), (30, 30, 34), 2.0)
            face.line([(side * 40, shape.eye_height), (side * 85, shape.eye_height)], (30, 30, 34), 2.0)
        face.line([(-10, shape.eye_height), (10, shape.eye_height)], (30, 30, 34), 2.0)
    return face.image


def _eye(face: FaceCanvas, character: Character, expression: dict[str, float], side: int) -> None:
    shape = character.face
    lon, lat, size = side * shape.eye_distance, shape.eye_height, shape.eye_size
    rx, ry = 10.5 * size, 6.2 * size
    face.oval(lon, lat, rx, ry, (240, 238, 234))
    x, y = lon + 4.0 * expression["gaze_x"], lat + 2.6 * expression["gaze_y"]
    face.oval(x, y, 4.9 * size, 5.2 * size, character.iris)
    face.oval(x, y, 2.4 * size, 2.6 * size, (12, 10, 10))
    if face.unit > 0.6:
        face.oval(x - 1.7, y - 1.8, 1.1, 1.1, (255, 255, 255))
    lid = float(np.clip(expression["lids"], 0, 1))
    level = lat - ry + 2 * ry * (1 - lid) * 0.92  # latitude of the upper lid in the middle
    t = np.linspace(-1, 1, 9)
    lower = lat + (level - lat) * (1 - t**2)
    upper = lat - (ry + 4.2) * np.sqrt(np.maximum(1 - (t * 0.98) ** 2, 0)) - 1
    skin = tint(character.skin, 0.93)
    xs = lon + t * rx * 1.12
    face.shape(np.concatenate([np.stack([xs, lower], 1), np.stack([xs, upper], 1)[::-1]]), skin)
    under = lat + ry * np.sqrt(np.maximum(1 - t**2, 0))
    outside = lat + (ry + 3) * np.sqrt(np.maximum(1 - (0.97 * t) ** 2, 0)) + 0.5
    face.shape(np.concatenate([np.stack([xs, under], 1), np.stack([xs, outside], 1)[::-1]]), skin)
    face.line(np.stack([xs, lower], 1), (34, 22, 20), 2.2)


def mouth_outline(character: Character, expression: dict[str, float]) -> tuple[Points, Points]:
    """(lips, opening) as closed polygons [N, 2] in degrees."""
    shape = character.face
    opening = expression["mouth_open"]
    half = 17.0 * shape.mouth_width * (1 + 0.28 * expression["mouth_width"] - 0.16 * opening)
    gap = 17.0 * opening
    lift = -5.0 * expression["smile"]
    t = np.linspace(-1, 1, 13)
    arch = 1 - t**2
    corner = lift * t**2
    thick = 2.6 * shape.lip_thickness
    top = shape.mouth_height - gap * 0.3 * arch + corner
    bottom = shape.mouth_height + gap * 0.7 * arch + corner
    cupid = 1 - 0.25 * np.exp(-((t / 0.18) ** 2))
    upper = top - thick * np.sqrt(arch + 0.02) * cupid
    lower = bottom + 1.25 * thick * np.sqrt(arch + 0.02)
    lips = np.concatenate([np.stack([t * half, upper], 1), np.stack([t * half, lower], 1)[::-1]])
    inside = np.concatenate([np.stack([t * half * 0.93, top], 1), np.stack([t * half * 0.93, bottom], 1)[::-1]])
    return lips, inside


def _mouth(face: FaceCanvas, character: Character, expression: dict[str, float]) -> None:
    lips, inside = mouth_outline(character, expression)
    face.shape(lips, character.lips)
    opening = expression["mouth_open"]
    if opening < 0.07:
        face.line(inside[:13], mix(character.lips, (30, 8, 12), 0.6), 1.8)
        return
    face.shape(inside, MOUTH_INSIDE)
    top, bottom = inside[:13], inside[13:][::-1]
    deep = float(bottom[6, 1] - top[6, 1])
    if opening > 0.25:
        tongue = [(-0.5, 1.0), (-0.35, 0.72), (0, 0.64), (0.35, 0.72), (0.5, 1.0)]
        half = float(inside[12, 0])
        face.shape([(x * half, float(top[6, 1]) + y * deep * 0.94) for x, y in tongue], TONGUE)
    if opening > 0.12:
        inner = top[2:11]
        edge = inner + np.array([0.0, min(3.6, 0.4 * deep)])
        edge[:, 1] = np.minimum(edge[:, 1], bottom[2:11, 1])
        face.shape(np.concatenate([inner, edge[::-1]]), TEETH)


def draw_head(
    canvas: Image,
    view: View,
    character: Character,
    centre: Points,
    rotation: Points,
    expression: dict[str, float],
) -> None:
    """Draws the head at `centre` [3] (metres), turned by `rotation` [3, 3], into `canvas`."""
    radius = character.body.head * view.scale
    x, y = (float(v) for v in view.project(centre))
    level = 0 if radius > 48 else 1 if radius > 20 else 2
    shape = character.face
    ears = [np.array([side * shape.width, 0.06, 0.06]) for side in (-1, 1)]

    def draw_ears(front: bool) -> None:
        for ear in ears:
            place = rotation @ ear
            if (place[2] < 0.02) == front and character.hair_style not in ("long", "bob"):
                size = radius * np.array([0.09 + 0.07 * abs(place[2]), 0.17])
                at = x + place[0] * radius, y + place[1] * radius
                ellipse(canvas, *at, size[0], size[1], tint(character.skin, 0.84))
                ellipse(canvas, *at, size[0] * 0.55, size[1] * 0.6, tint(character.skin, 0.74))

    draw_ears(front=False)
    texture = face_texture(character, expression, level)
    axes = np.array([shape.width, 1.0, shape.depth])
    _cast(canvas, view, (x, y), radius, rotation, axes, texture, shape.chin, 0.1 * expression["mouth_open"])
    draw_ears(front=True)
    _nose(canvas, view, character, (x, y), radius, rotation)
    shell = HAIR_SHELL[character.hair_style]
    if shell:
        hair = hair_texture(character, level)
        _cast(canvas, view, (x, y), radius, rotation, axes * np.array([shell, shell, shell * 1.02]), hair, 0.0, 0.0)
    if character.hair_style == "cap":
        draw_brim(canvas, character, (x, y), radius, rotation)


def _cast(
    canvas: Image,
    view: View,
    centre: tuple[float, float],
    radius: float,
    rotation: Points,
    axes: Points,
    texture: Image,
    chin: float,
    jaw: float,
) -> None:
    """Ray-casts a textured ellipsoid (RGB, or RGBA where only some of it is there) on to the canvas."""
    radius = float(radius)
    reach = radius * float(axes.max()) * (1.06 + jaw) + 2
    x, y = centre
    left, right = max(0, int(x - reach)), min(canvas.shape[1], int(x + reach) + 2)
    top, bottom = max(0, int(y - reach)), min(canvas.shape[0], int(y + reach) + 2)
    if left >= right or top >= bottom:
        return
    roll = float(np.arctan2(rotation[0, 1], rotation[1, 1]))  # the head's down axis in the picture
    px, py = np.meshgrid(
        ((np.arange(left, right, dtype=np.float32) - x) / radius),
        ((np.arange(top, bottom, dtype=np.float32) - y) / radius),
    )
    if chin or jaw:
        c, s = np.float32(np.cos(roll)), np.float32(np.sin(roll))
        u, v = px * c - py * s, px * s + py * c
        below = np.maximum(v, 0)
        u = u / (1 - np.float32(chin) * below * below)
        v = np.where(v > 0, v / np.float32(1 + jaw), v)
        px, py = u * c + v * s, v * c - u * s
    inverse = (rotation.T / axes[:, None]).astype(np.float32)  # to the unit sphere
    origin = [inverse[i, 0] * px + inverse[i, 1] * py for i in range(3)]
    ray = inverse[:, 2]
    a = float(ray @ ray)
    b = origin[0] * ray[0] + origin[1] * ray[1] + origin[2] * ray[2]
    c2 = origin[0] ** 2 + origin[1] ** 2 + origin[2] ** 2 - 1
    root = b * b - a * c2
    inside = np.clip(root * (radius * 0.55) + 0.5, 0, 1)
    depth = -(b + np.sqrt(np.maximum(root, 0))) / a
    qx, qy, qz = (origin[i] + ray[i] * depth for i in range(3))
    unit = texture.shape[1] / 360.0
    lon = cv2.phase(-qz, qx, angleInDegrees=True)  # 0..360, 0 to the front
    map_x = np.where(lon > 180, lon - 180, lon + 180) * np.float32(unit)
    map_y = (np.arcsin(np.clip(qy, -1, 1)) * np.float32(180 / np.pi) + 90) * np.float32(unit)
    color = cv2.remap(texture, map_x - 0.5, map_y - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    light = (
        np.float32(view.light[0]) * px + np.float32(view.light[1]) * py - np.float32(0.75) * depth / np.float32(axes[2])
    )
    shade = np.clip(np.float32(view.ambient - 0.16) + np.float32(1.28 - view.ambient) * light, 0.35, 1.2)
    if texture.shape[2] == 4:
        inside = inside * (color[..., 3].astype(np.float32) / 255)
    region = canvas[top:bottom, left:right]
    lit = np.minimum(color[..., :3] * shade[..., None], 255)
    region[:] = (region + (lit - region) * inside[..., None]).astype(np.uint8)


def _nose(
    canvas: Image, view: View, character: Character, centre: tuple[float, float], radius: float, rotation: Points
) -> None:
    size, depth = character.face.nose, character.face.depth
    points = np.array([
        [0, -0.05, -depth * 0.99], [0, 0.25, -depth * 0.97 - 0.17 * size], [-0.11 * size, 0.31, -depth * 0.9],
        [0.11 * size, 0.31, -depth * 0.9], [0, 0.34, -depth * 0.93],
    ])  # fmt: skip
    turned = points @ rotation.T
    if turned[1, 2] > -0.25:
        return
    flat = turned[:, :2] * radius + np.array(centre)
    bridge, tip, right, left, base = flat
    lit = view.light[0] < 0
    polygon(canvas, np.stack([bridge, right, tip]), tint(character.skin, 1.0 if lit else 0.86), True)
    polygon(canvas, np.stack([bridge, left, tip]), tint(character.skin, 0.86 if lit else 1.0), True)
    polygon(canvas, np.stack([right, tip, left, base]), tint(character.skin, 0.8), False)
    disk(canvas, tip[0], tip[1], radius * 0.065 * size, tint(character.skin, 1.0))
