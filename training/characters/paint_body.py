"""Trunk, limbs and hands of a character: shaded capsules, and a torso wrapped in a cloth texture."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np

from dreamactor.motion.pose import INDEX
from dreamactor.training.characters.character import Character, Color
from dreamactor.training.characters.paint import Image, Points, View, capsule, circle, disk, polygon, stroke, tint
from dreamactor.training.characters.paint_hair import draw_back_hair
from dreamactor.training.characters.paint_head import draw_head
from dreamactor.training.characters.performance import Performance

ROWS, COLUMNS = 72, 180  # torso texture: shoulders to hips, 2 degrees a column, the middle column is the front


@lru_cache(maxsize=64)
def torso_texture(character: Character) -> Image:
    """The cloth unrolled: uint8 [ROWS, COLUMNS, 3]."""
    rng = np.random.default_rng([character.seed, 3])
    cloth = np.empty((ROWS, COLUMNS, 3), np.float32)
    cloth[:] = character.shirt
    second = np.array(character.shirt_second, np.float32)
    row, column = np.mgrid[0:ROWS, 0:COLUMNS]
    period = int(rng.integers(9, 20))
    centre = np.abs(column - COLUMNS // 2)
    masks = {
        "stripes": row // (period // 2) % 2 == 0,
        "columns": column // (period // 2) % 2 == 0,
        "checks": (row // period + column // period) % 2 == 0,
        "logo": (row - 24) ** 2 + (column - COLUMNS // 2) ** 2 < 11**2,
        "jacket": (centre > 9 + 0.12 * (ROWS - row)),
        "yoke": row < 20,
        "dots": (row % period - period // 2) ** 2 + (column % period - period // 2) ** 2 < (period * 0.28) ** 2,
    }
    if character.pattern in masks:
        cloth[masks[character.pattern]] = second
    if character.pattern in ("plain", "yoke", "stripes") and rng.random() < 0.5:
        for y in range(8, ROWS, 12):
            cv2.circle(cloth, (COLUMNS // 2, y), 2, (245.0, 245.0, 235.0), -1)
    neck = (row < 13 * (1 - (centre / 16.0) ** 2)) & (centre < 16)
    cloth[neck] = np.array(character.skin, np.float32) * 0.92
    waist = ROWS - 8
    cloth[waist:] = np.array(character.legs, np.float32)
    cloth[waist : waist + 2] = np.array(character.shoes, np.float32)
    folds = cv2.resize(rng.normal(size=(6, 20)).astype(np.float32), (COLUMNS, ROWS), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(cloth * (1 + 0.035 * folds[..., None]), 0, 255), np.uint8)


def draw_person(canvas: Image, view: View, character: Character, performance: Performance, frame: int) -> None:
    """Draws one frame of a performance, far parts first."""
    joints = performance.joints[frame]
    flat = view.project(joints)
    head, centre = performance.head[frame], performance.head_center[frame]
    expression = performance.expression.at(frame)
    neck_z = joints[INDEX["neck"], 2]
    hip_z = (joints[INDEX["right_hip"], 2] + joints[INDEX["left_hip"], 2]) / 2

    def arm_depth(side: str) -> float:
        return float(0.4 * joints[INDEX[f"{side}_elbow"], 2] + 0.6 * joints[INDEX[f"{side}_wrist"], 2])

    behind = [s for s in ("right", "left") if arm_depth(s) > neck_z + 0.05]
    before = sorted({"right", "left"} - set(behind), key=arm_depth, reverse=True)
    legs = sorted(("right", "left"), key=lambda s: joints[INDEX[f"{s}_knee"], 2], reverse=True)
    kicking = [s for s in legs if joints[INDEX[f"{s}_knee"], 2] < hip_z - 0.17]
    draw_back_hair(canvas, view, character, centre, head, front=False)
    for side in sorted(behind, key=arm_depth, reverse=True):
        _arm(canvas, view, character, performance, frame, flat, side)
    for side in legs:
        if side not in kicking:
            _leg(canvas, view, character, flat, side)
    if character.legwear == "skirt":
        _skirt(canvas, view, character, flat)
    _torso(canvas, view, character, performance, frame, flat)
    for side in kicking:
        _leg(canvas, view, character, flat, side)
    radius = character.body.head * view.scale
    chin = view.project(centre + head @ np.array([0, 0.62, 0.12]) * character.body.head)
    base = flat[INDEX["neck"]] + np.array([0, 0.02 * view.scale])
    capsule(canvas, view, base, chin, 0.44 * radius, 0.4 * radius, tint(character.skin, 0.86))
    draw_head(canvas, view, character, centre, head, expression)
    draw_back_hair(canvas, view, character, centre, head, front=True)
    for side in before:
        _arm(canvas, view, character, performance, frame, flat, side)


def _arm(
    canvas: Image, view: View, character: Character, performance: Performance, frame: int, flat: Points, side: str
) -> None:
    shoulder, elbow, wrist = (flat[INDEX[f"{side}_{part}"]] for part in ("shoulder", "elbow", "wrist"))
    unit = view.scale * character.body.girth
    skin, sleeve = character.skin, _sleeve_color(character)
    length = character.sleeves
    capsule(canvas, view, shoulder, elbow, 0.05 * unit, 0.04 * unit, skin)
    capsule(canvas, view, elbow, wrist, 0.04 * unit, 0.029 * unit, skin)
    _hand(canvas, view, character, performance.hands[frame, 0 if side == "right" else 1])
    if length >= 1:
        capsule(canvas, view, elbow, elbow + 0.93 * (wrist - elbow), 0.046 * unit, 0.038 * unit, sleeve)
    if length > 0:
        end = elbow if length >= 0.5 else shoulder + (elbow - shoulder) * 0.6
        capsule(canvas, view, shoulder, end, 0.063 * unit, 0.051 * unit, sleeve)
    else:
        disk(canvas, shoulder[0], shoulder[1], 0.056 * unit, tint(sleeve, 0.95))


def _sleeve_color(character: Character) -> Color:
    return character.shirt_second if character.pattern in ("jacket", "yoke") else character.shirt


def _hand(canvas: Image, view: View, character: Character, points: Points) -> None:
    flat = view.project(points)
    unit = view.scale * character.body.hand
    dark, light = tint(character.skin, 0.8), tint(character.skin, 1.0)
    palm = flat[[0, 1, 5, 9, 13, 17]]
    hull = cv2.convexHull(palm.astype(np.float32))[:, 0].astype(np.float64)
    width = unit * 0.105
    stroke(canvas, np.concatenate([hull, hull[:1]]), dark, width * 1.1)
    if width > 1.6:
        for finger in np.argsort(-points[[4, 8, 12, 16, 20], 2]):
            line = flat[4 * finger + 1 : 4 * finger + 5]
            stroke(canvas, line, dark, width * 1.25)
            stroke(canvas, line, light, width * 0.75)
    else:
        for finger in range(5):
            stroke(canvas, flat[4 * finger + 1 : 4 * finger + 5], light, width)
    polygon(canvas, hull, tint(character.skin, 0.96))


def _leg(canvas: Image, view: View, character: Character, flat: Points, side: str) -> None:
    hip, knee, ankle, toe = (flat[INDEX[f"{side}_{part}"]] for part in ("hip", "knee", "ankle", "toe"))
    unit = view.scale * character.body.girth
    long, bare = character.legwear == "trousers", character.skin
    capsule(
        canvas,
        view,
        ankle + (toe - ankle) * 0.05,
        ankle + (toe - ankle) * 0.85,
        0.042 * unit,
        0.036 * unit,
        character.shoes,
    )
    capsule(
        canvas, view, knee, ankle, 0.056 * unit, (0.046 if long else 0.036) * unit, character.legs if long else bare
    )
    upper = bare if character.legwear == "skirt" else character.legs
    capsule(canvas, view, hip, knee, 0.088 * unit, (0.062 if long else 0.068) * unit, upper)


def _skirt(canvas: Image, view: View, character: Character, flat: Points) -> None:
    unit = view.scale * character.body.girth
    hips = (flat[INDEX["right_hip"]] + flat[INDEX["left_hip"]]) / 2
    knees = [flat[INDEX[f"{s}_hip"]] * 0.3 + flat[INDEX[f"{s}_knee"]] * 0.7 for s in ("right", "left")]
    for share, brightness in ((1.0, 0.74), (0.75, 0.9), (0.4, 1.02)):
        circles = [(hips, 0.13 * unit * share)] + [(k, 0.11 * unit * share) for k in knees]
        cloud = np.concatenate([c + circle(14) * r for c, r in circles]) + np.array(view.light) * 0.05 * unit * (
            1 - share
        )
        hull = cv2.convexHull(cloud.astype(np.float32))[:, 0].astype(np.float64)
        polygon(canvas, hull, tint(character.legs, brightness), True)


def _torso(canvas: Image, view: View, character: Character, performance: Performance, frame: int, flat: Points) -> None:
    """Rings from the shoulders to the hips make the silhouette; the cloth is turned to the camera and laid into it."""
    body = character.body
    chest, root = performance.chest[frame], performance.root[frame]
    top = flat[INDEX["neck"]]
    low = (flat[INDEX["right_hip"]] + flat[INDEX["left_hip"]]) / 2
    down = low - top
    length = float(np.hypot(down[0], down[1]))
    down = down / max(length, 1e-6)
    across = np.array([down[1], -down[0]])  # to the right of the picture when upright
    girth = body.girth * view.scale
    wide = body.shoulder * view.scale
    rings = (  # place along the spine, half-width, half-depth
        (-0.07, 0.42 * wide, 0.05 * girth), (0.0, 0.93 * wide, 0.085 * girth), (0.28, 0.88 * wide, 0.115 * girth),
        (0.62, 0.70 * wide, 0.098 * girth), (0.9, 0.125 * girth, 0.105 * girth), (1.08, 0.142 * girth, 0.11 * girth),
    )  # fmt: skip
    mask = np.zeros(canvas.shape[:2], np.uint8)
    outline: list[Points] = []
    extents = []
    for place, half, deep in rings:
        turn = chest if place < 0.6 else root
        extent = float(np.hypot(half * (turn[:2, 0] @ across), deep * (turn[:2, 2] @ across)))
        ring = turn[:2, 0][None] * half * _RING[:, :1] + turn[:2, 2][None] * deep * _RING[:, 1:]
        ring = ring + top + down * length * place
        middle = top + down * length * place
        outline.append(np.stack([middle - across * extent, middle + across * extent]))
        extents.append(extent)
        polygon(mask, cv2.convexHull(ring.astype(np.float32))[:, 0].astype(np.float64), (255.0, 255.0, 255.0), True)
    for first, second in pairwise(outline):
        polygon(mask, np.stack([first[0], first[1], second[1], second[0]]), (255.0, 255.0, 255.0), True)
    reach = max(extents)
    forward = -chest[:, 2]  # to where the chest faces
    facing = np.rad2deg(np.arctan2(float(forward[:2] @ across), float(-forward[2])))
    s = np.linspace(-0.98, 0.98, 48)
    angle = np.rad2deg(np.arcsin(s))
    columns = np.rint((angle - facing) / (360 / COLUMNS) + COLUMNS / 2).astype(int) % COLUMNS
    light = view.light[0] * across[0] * s + 0.8 * np.sqrt(1 - s**2)
    shade = np.clip(view.ambient - 0.1 + (1.3 - view.ambient) * light, 0.4, 1.15)
    patch = np.clip(torso_texture(character)[:, columns] * shade[None, :, None], 0, 255).astype(np.uint8)
    origin = top - down * length * 0.07 - across * reach
    matrix = np.stack([across * (2 * reach / 47), down * (length * 1.2 / (ROWS - 1)), origin], axis=1)
    ys, xs = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if not len(ys):
        return
    y0, y1, x0, x1 = int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1
    matrix[:, 2] -= (x0, y0)
    if length > 1.0:
        warped = cv2.warpAffine(
            patch, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    else:
        warped = np.broadcast_to(patch[ROWS // 2, 24], (y1 - y0, x1 - x0, 3)).copy()
    cv2.copyTo(warped, mask[y0:y1, x0:x1], canvas[y0:y1, x0:x1])


_RING = circle(16)
