"""What the single-shot detectors put out: anchors, boxes with key points, weighted suppression of doubles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dreamactor.motion.pose import Float
from dreamactor.motion.roi import Region

OVERLAP = 0.3  # intersection over union from which two boxes are one


@dataclass(frozen=True)
class Detection:
    """One find: score 0..1, box (left, top, right, bottom) and key points [K, 2], in pixels."""

    score: float
    box: Float
    points: Float


def sigmoid(logits: Float) -> Float:
    """1 / (1 + exp(-x)), safe at both ends."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -80, 80))), np.float32)


def anchors(side: int, strides: tuple[int, ...], per_cell: tuple[int, ...]) -> Float:
    """Centres [N, 2] in 0..1: for each stride a grid of cells, each cell's centre `per_cell` times."""
    parts = []
    for stride, count in zip(strides, per_cell, strict=True):
        cells = (np.arange(side // stride) + 0.5) / (side // stride)
        y, x = np.meshgrid(cells, cells, indexing="ij")
        parts.append(np.stack([x, y], axis=-1).reshape(-1, 2).repeat(count, axis=0))
    return np.concatenate(parts).astype(np.float32)


def decode(boxes: Float, logits: Float, centers: Float, side: int, region: Region, threshold: float) -> list[Detection]:
    """Raw output [N, 4 + 2K] and [N] of a detector that saw `region`, to finds scored >= `threshold`, best first.

    A row: the centre's offset from its anchor, width, height, then the key points' offsets, all in input pixels.
    """
    score = sigmoid(logits)
    kept = np.flatnonzero(score >= threshold)
    if not len(kept):
        return []
    values, score = boxes[kept] / side, score[kept]
    middle = values[:, :2] + centers[kept]
    points = values[:, 4:].reshape(len(kept), -1, 2) + centers[kept][:, None]
    half = values[:, 2:4] / 2
    corners = np.concatenate([middle - half, middle + half], axis=1)
    origin = np.array([region.x, region.y], np.float32) - region.size / 2
    found = np.concatenate([corners.reshape(len(kept), 2, 2), points], axis=1) * region.size + origin
    return _merge(found.astype(np.float32), score.astype(np.float32))


def _merge(found: Float, score: Float) -> list[Detection]:
    """Weighted suppression: overlapping finds become their mean, weighted by score, under the best one's score."""
    merged = []
    order = np.argsort(-score, kind="stable")
    while len(order):
        overlap = _overlap(found[order[0], :2].ravel(), found[order, :2].reshape(-1, 4))
        same = overlap > OVERLAP
        same[0] = True
        group = order[same]
        mean = np.average(found[group], axis=0, weights=score[group]).astype(np.float32)
        merged.append(Detection(float(score[order[0]]), mean[:2].ravel(), mean[2:]))
        order = order[~same]
    return merged


def _overlap(box: Float, others: Float) -> Float:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(np.maximum(others[:, 2:] - others[:, :2], 0), axis=1)
    own = float(np.prod(np.maximum(box[2:] - box[:2], 0)))
    return np.asarray(shared / np.maximum(own + areas - shared, 1e-9), np.float32)
