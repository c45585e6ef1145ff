"""Pre-training of the face motion encoder on the renderer's expression parameters.

The paper starts from a face encoder that was pre-trained on expressions (arXiv 2504.01724, section 3.2). Without such
a start the encoder's tokens shrink to nothing before the transformer has learnt to read them. Here a token is taught to
be the expression, whoever wears it and whichever camera sees it, then a constant, then zeros: the transformer
normalises tokens, so a free channel would drown the others, and without the constant the expression's strength would be
lost. The later stages leave the encoder alone.

The loss weighs most how the expression changes within a clip. The person's looks, which change a picture far more than
a mouth does, cancel out in the difference. For the same reason clean crops come first, then disturbed ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dreamactor.networks import Networks
from dreamactor.training.clip_store import EXPRESSIONS
from dreamactor.training.device_clips import Clips
from dreamactor.training.faces import draw_look, see

ABSOLUTE = 0.1  # weight of the tokens themselves beside that of their changes
CONSTANT = 2.0  # what the channel after the expression is
CLEAN_UNTIL, MOST_DISTURBED = 0.3, 0.9  # share of the stage; share of the clips at its end


def expression_batch(
    clips: Clips,
    rng: np.random.Generator,
    frames: int,
    count: int,
    progress: float = 0.0,
    share: slice = slice(None),
) -> tuple[Tensor, Tensor]:
    """(faces [B,T,3,224,224], expressions [B,T,8] in standard deviations, NaN where the face is turned away).

    `progress` (0..1) through the stage decides how many clips look as if through another camera. Of the `count` clips
    that are drawn only `share` is made.
    """
    shelf = clips.pictures
    mean, deviation = (shelf.there(value.astype(np.float32)) for value in clips.store.expression_statistics)
    rows = rng.choice(shelf.ready, size=count)
    chosen = np.sort(rng.random((count, clips.store.faces.shape[1])).argsort(1)[:, :frames], 1)
    look = draw_look(rng, count, min(MOST_DISTURBED, max(0.0, 2 * (progress - CLEAN_UNTIL))))
    faces = see(shelf.take("faces", rows[share], chosen[share]), look[share])
    return faces, (shelf.take("expressions", rows[share], chosen[share]) - mean) / deviation


def expression_loss(networks: Networks, faces: Tensor, expressions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the changes within each clip and, lighter, of the tokens, over the faces that show; `mouth`
    is the share of the changes of the mouth's opening that is not explained."""
    shown = expressions[..., :1].isfinite().float()
    tokens = networks.face_encoder(faces).float()
    wanted = torch.zeros_like(tokens)
    wanted[..., :EXPRESSIONS] = expressions.nan_to_num()
    wanted[..., EXPRESSIONS] = CONSTANT
    change = _changes(wanted, shown)
    square = (_changes(tokens, shown) - change).square()
    absolute = (tokens - wanted).square() * shown
    loss = (square + ABSOLUTE * absolute).sum() / (EXPRESSIONS * shown.sum()).clamp_min(1)
    mouth = square[..., 0].sum() / change[..., 0].square().sum().clamp_min(1e-6)
    return loss, {"loss": loss.detach(), "mouth": mouth.detach()}


def _changes(values: Tensor, shown: Tensor) -> Tensor:
    """values [B,T,C] less their mean over the frames that show [B,T,1]; 0 where nothing shows."""
    mean = (values * shown).sum(1, keepdim=True) / shown.sum(1, keepdim=True).clamp_min(1)
    return (values - mean) * shown
