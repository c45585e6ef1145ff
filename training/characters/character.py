"""Who a synthetic person is: proportions, skin, hair, clothes. Drawn at random from a seed, then fixed."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

Color = tuple[float, float, float]

SKINS: tuple[Color, ...] = (
    (247, 214, 190), (236, 188, 160), (224, 172, 140), (198, 140, 105), (166, 110, 78), (125, 80, 56), (88, 56, 42)
)  # fmt: skip
HAIRS: tuple[Color, ...] = (
    (26, 22, 22), (48, 34, 28), (84, 56, 36), (120, 82, 48), (176, 130, 76), (214, 180, 120), (150, 70, 40),
    (140, 140, 145), (205, 205, 205), (90, 60, 130), (60, 90, 140),
)  # fmt: skip
HAIR_STYLES = ("bald", "short", "short", "medium", "bob", "long", "long", "bun", "curly", "cap")
PATTERNS = ("plain", "plain", "stripes", "columns", "checks", "logo", "jacket", "yoke", "dots")
LEGWEAR = ("trousers", "trousers", "trousers", "shorts", "skirt")


@dataclass(frozen=True)
class Body:
    """Lengths in metres (half-widths where the name says so)."""

    spine: float
    chest: float
    shoulder: float  # half the distance between the shoulders
    upper_arm: float
    forearm: float
    hip: float  # half
    thigh: float
    shin: float
    foot: float
    neck: float
    head: float  # radius: half the height from chin to crown
    hand: float
    girth: float  # 1 is average


@dataclass(frozen=True)
class Face:
    """Shape of the head (half-axes in head radii) and of what is on it."""

    width: float
    depth: float
    chin: float  # how much the face narrows to the chin
    eye_distance: float  # degrees of longitude from the middle
    eye_size: float
    eye_height: float  # degrees of latitude, up is negative
    brow_thickness: float
    nose: float
    mouth_width: float
    mouth_height: float  # degrees of latitude of the middle of the mouth
    lip_thickness: float


@dataclass(frozen=True)
class Character:
    """One synthetic person. Colours are RGB in 0..255."""

    seed: int
    body: Body
    face: Face
    skin: Color
    lips: Color
    iris: Color
    hair: Color
    hair_style: str
    beard: float
    glasses: bool
    shirt: Color
    shirt_second: Color
    pattern: str
    sleeves: float  # 0 none, 0.5 to the elbow, 1 to the wrist
    legwear: str
    legs: Color
    shoes: Color


def make_character(seed: int) -> Character:
    """The character of a seed; the same seed always gives the same person."""
    rng = np.random.default_rng([seed, 1])

    def around(mean: float, spread: float) -> float:
        return float(mean * (1 + spread * np.clip(rng.normal(), -2, 2)))

    build = around(1.0, 0.05)
    limb = around(1.0, 0.05)
    body = Body(
        spine=around(0.236, 0.06), chest=around(0.224, 0.06), shoulder=around(0.19 * build, 0.06),
        upper_arm=around(0.275 * limb, 0.04), forearm=around(0.25 * limb, 0.04), hip=around(0.09 * build, 0.07),
        thigh=around(0.41 * limb, 0.05), shin=around(0.40 * limb, 0.05), foot=around(0.17, 0.06),
        neck=around(0.07, 0.12), head=around(0.148, 0.07), hand=around(0.19, 0.06), girth=around(build, 0.1),
    )  # fmt: skip
    face = Face(
        width=around(0.79, 0.035), depth=around(0.88, 0.03), chin=float(rng.uniform(0.1, 0.3)),
        eye_distance=around(25, 0.06), eye_size=around(1.0, 0.1), eye_height=around(-2.0, 0.8),
        brow_thickness=around(1.0, 0.3), nose=around(1.0, 0.15), mouth_width=around(1.0, 0.1),
        mouth_height=around(34, 0.04), lip_thickness=around(1.0, 0.25),
    )  # fmt: skip
    skin = _jitter(rng, SKINS[rng.integers(len(SKINS))], 8)
    lips = mix(mix(skin, (190, 60, 70), float(rng.uniform(0.35, 0.65))), (60, 20, 25), 0.12)
    style = HAIR_STYLES[rng.integers(len(HAIR_STYLES))]
    shirt, second = _cloth(rng), _cloth(rng)
    return Character(
        seed=seed, body=body, face=face, skin=skin, lips=lips,
        iris=((70, 50, 35), (60, 90, 120), (70, 100, 60), (40, 30, 25))[rng.integers(4)],
        hair=_jitter(rng, HAIRS[rng.integers(len(HAIRS))], 10), hair_style=style,
        beard=float(rng.uniform(0.25, 0.85)) if style in ("bald", "short", "cap") and rng.random() < 0.35 else 0.0,
        glasses=bool(rng.random() < 0.12), shirt=shirt, shirt_second=second,
        pattern=PATTERNS[rng.integers(len(PATTERNS))], sleeves=float(rng.choice([0.0, 0.45, 0.5, 1.0, 1.0])),
        legwear=LEGWEAR[rng.integers(len(LEGWEAR))], legs=_cloth(rng, dark=True), shoes=_cloth(rng, dark=True),
    )  # fmt: skip


def _jitter(rng: np.random.Generator, color: Color, amount: float) -> Color:
    r, g, b = np.clip(np.array(color) + rng.normal(size=3) * amount * 0.5 + rng.normal() * amount, 8, 250)
    return float(r), float(g), float(b)


def mix(a: Color, b: Color, weight: float) -> Color:
    """The colour `weight` of the way from a to b."""
    k = 1 - weight
    return a[0] * k + b[0] * weight, a[1] * k + b[1] * weight, a[2] * k + b[2] * weight


def _cloth(rng: np.random.Generator, dark: bool = False) -> Color:
    saturation = float(rng.choice([0.08, 0.35, 0.65, 0.85]))
    value = float(rng.uniform(0.15, 0.6) if dark else rng.uniform(0.3, 0.97))
    r, g, b = colorsys.hsv_to_rgb(float(rng.random()), saturation, value)
    return 255 * r, 255 * g, 255 * b
