"""Driving face crops as the encoder sees them: as they were stored, or as another camera would see the face.

Window, blur and enlargement are linear along each axis, so they are one matrix for the rows and one for the columns.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamactor.presets import FACE_SIZE
from dreamactor.training.characters.clip import STORED_FACE, face_edge

GRAY = np.array([0.299, 0.587, 0.114], np.float32)
SHARP = 1e-3  # a blur of this deviation, in pixels, changes nothing
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """How the faces of B clips are seen: a window's corner and side in stored pixels; a colour curve, 255 * gain *
    (value / 255) ** gamma + bias; whether in gray; a blur's standard deviation in pixels."""

    corner: Floats  # [B,2], x and y
    side: Floats  # [B]
    gain: Floats  # [B,3]
    bias: Floats  # [B,3]
    gamma: Floats  # [B]
    gray: Floats  # [B], 0 or 1
    blur: Floats  # [B]

    def __getitem__(self, rows: slice) -> Look:
        return Look(*(getattr(self, field.name)[rows] for field in fields(self)))


def plain_look(count: int) -> Look:
    """The stored crops without their margin."""
    edge, ones, zeros = face_edge(STORED_FACE), np.ones(count, np.float32), np.zeros(count, np.float32)
    return Look(
        corner=np.full((count, 2), edge, np.float32), side=ones * (STORED_FACE - 2 * edge),
        gain=np.ones((count, 3), np.float32), bias=np.zeros((count, 3), np.float32), gamma=ones, gray=zeros,
        blur=ones * SHARP,
    )  # fmt: skip


def draw_look(rng: np.random.Generator, count: int, disturbed: float = 1.0) -> Look:
    """A look for each clip: a share `disturbed` of them as through another camera, the rest plain."""
    side = (STORED_FACE * rng.uniform(0.8, 0.97, count)).astype(int)
    other = Look(
        corner=rng.integers((STORED_FACE - side + 1)[:, None], size=(count, 2)).astype(np.float32),
        side=side.astype(np.float32),
        gain=(rng.uniform(0.6, 1.2, (count, 3)) ** 0.5).astype(np.float32),
        bias=rng.uniform(-18, 18, (count, 3)).astype(np.float32),
        gamma=rng.uniform(0.65, 1.5, count).astype(np.float32),
        gray=(rng.random(count) < 0.15).astype(np.float32),
        blur=np.where(rng.random(count) < 0.3, rng.uniform(0.3, 1.4, count), SHARP).astype(np.float32),
    )
    changed, plain = rng.random(count) < disturbed, plain_look(count)

    def choose(a: Floats, b: Floats) -> Floats:
        return np.where(changed[:, None] if a.ndim == 2 else changed, a, b)

    return Look(*(choose(getattr(other, field.name), getattr(plain, field.name)) for field in fields(Look)))


def see(faces: Tensor, look: Look) -> Tensor:
    """Stored crops u8 [B,T,112,112,3] -> [B,T,3,224,224] in [-1,1]."""

    def there(values: Floats) -> Tensor:
        return torch.from_numpy(values).to(faces.device, non_blocking=True)

    def per_clip(values: Floats) -> Tensor:
        return there(values.reshape(len(values), 1, 1, 1, -1))

    with torch.autocast(faces.device.type, enabled=False):  # bfloat16 would be too coarse for places and weights
        seen = faces.float().div_(255).pow(per_clip(look.gamma)) * per_clip(look.gain) + per_clip(
            (look.bias / 255).astype(np.float32)
        )
        seen = seen.clamp_(0, 1)
        gray = (seen * there(GRAY)).sum(-1, keepdim=True)
        seen = torch.lerp(seen, gray, per_clip(look.gray)).permute(0, 1, 4, 2, 3)
        side, blur = there(look.side), there(look.blur)
        columns, rows = (_axis(there(look.corner[:, i]), side, blur)[:, None, None] for i in range(2))
        return (rows @ seen @ columns.transpose(-1, -2)).mul_(2).sub_(1)


def _axis(start: Tensor, side: Tensor, blur: Tensor) -> Tensor:
    """[B,224,112]: along one axis, the blur of a window's pixels and then their enlargement, both within it."""
    pixels = torch.arange(STORED_FACE, device=start.device)
    inside = (pixels >= start[:, None]) & (pixels < (start + side)[:, None])  # [B,112]
    distance = (pixels[:, None] - pixels).float() / blur[:, None, None]
    blurred = torch.exp(-0.5 * distance.square()) * inside[:, None]
    blurred = blurred / blurred.sum(-1, keepdim=True).clamp_min(1e-12)
    at = (torch.arange(FACE_SIZE, device=start.device) + 0.5) * (side[:, None] / FACE_SIZE) - 0.5  # [B,224]
    at = start[:, None] + torch.minimum(at.clamp_min(0), side[:, None] - 1)
    return (1 - (at[..., None] - pixels).abs()).clamp_min(0) @ blurred


def to_faces(faces: Tensor) -> Tensor:
    """Enlarged crops u8 [B,T,224,224,3] -> [B,T,3,224,224] in [-1,1]."""
    return faces.permute(0, 1, 4, 2, 3).float().div_(127.5).sub_(1)
