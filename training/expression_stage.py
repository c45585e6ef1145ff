"""Pre-training of the face motion encoder on the renderer's expression parameters.

The paper starts from a face encoder that was pre-trained on expressions (arXiv 2504.01724, section 3.2). Without such
a start the encoder's tokens shrink to nothing before the transformer has learnt to read them. Here the first channels
of a token are taught to be the expression, whoever wears it and whichever camera sees it; the rest is free, and the
later stages move all of them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamactor.networks import Networks
from dreamactor.training.data import EXPRESSIONS, ClipStore
from dreamactor.training.flow_stage import augment_faces, to_faces


def expression_batch(store: ClipStore, rng: np.random.Generator, frames: int, count: int) -> tuple[Tensor, Tensor]:
    """(faces [B,T,3,224,224], expressions [B,T,8] in standard deviations, NaN where the face is turned away)."""
    mean, deviation = statistics(store)
    faces, expressions = [], []
    for _ in range(count):
        clip = int(rng.integers(store.count))
        chosen = np.sort(rng.choice(store.faces.shape[1], frames, replace=False))
        faces.append(augment_faces(store.faces[clip, chosen], rng))
        expressions.append((store.expressions[clip, chosen] - mean) / deviation)
    return to_faces(np.stack(faces)), torch.from_numpy(np.stack(expressions)).float()


def statistics(store: ClipStore) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [8] of the expressions that show in a split."""
    values = np.asarray(store.expressions, np.float64)
    return np.nanmean(values, axis=(0, 1)), np.nanstd(values, axis=(0, 1)) + 1e-6


def expression_loss(networks: Networks, faces: Tensor, expressions: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Mean squared error of the expression over the faces that show; 1 is what the mean alone gives."""
    found = networks.face_encoder(faces)[..., :EXPRESSIONS].float()
    shown = expressions.isfinite()
    square = torch.where(shown, found - expressions.nan_to_num(), 0.0).square()
    loss = square.sum() / shown.sum().clamp_min(1)
    mouth = square[..., 0].sum() / shown[..., 0].sum().clamp_min(1)
    return loss, {"loss": float(loss.detach()), "mouth": float(mouth.detach())}
