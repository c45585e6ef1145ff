"""A photo may carry its own landmarks: a PNG with the text chunk `dreamactor:pose` is not searched for a person.

For drawings, in which models trained on photographs see nobody, and for whoever has better landmarks. The text is JSON:
`width` and `height` of the picture the pixels count in, and the fields of `PoseSequence` for one frame.
"""

from __future__ import annotations

import io
import json

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreamactor.errors import InputError
from dreamactor.motion.image import read_text
from dreamactor.motion.pose import FIELDS, JOINTS, PoseSequence

KEY = "dreamactor:pose"


def embed_pose(picture: NDArray[np.uint8], pose: PoseSequence) -> bytes:
    """A PNG of `picture`, uint8 RGB [H, W, 3], that carries the one-frame `pose` (in its pixels)."""
    values = {name: np.round(getattr(pose[:1], name)[0].astype(float), 4).tolist() for name in FIELDS}
    text = {"width": picture.shape[1], "height": picture.shape[0], "joint_names": list(JOINTS), **values}
    information = PngInfo()
    information.add_text(KEY, json.dumps(text))
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", pnginfo=information)
    return buffer.getvalue()


def pose_from_metadata(data: bytes, height: int, width: int, name: str = "the reference image") -> PoseSequence | None:
    """The pose an encoded picture carries, in the pixels of a height x width version of it; None when it has none.

    Raises InputError when it carries one that cannot be read.
    """
    text = read_text(data, KEY)
    if text is None:
        return None
    try:
        values = json.loads(text)
        if list(values["joint_names"]) != list(JOINTS):
            raise ValueError("its joints are not this version's")
        pose = PoseSequence(**{field: np.asarray([values[field]], np.float32) for field in FIELDS})
        if not all(np.isfinite(getattr(pose, field)).all() for field in FIELDS) or not pose.head_radius[0] > 0:
            raise ValueError("a value is not finite, or the head has no size")
        scale = (height / float(values["height"]) + width / float(values["width"])) / 2
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{name} carries a '{KEY}' text that cannot be read: {error}.") from error
    if max(pose.confidence.max(), pose.head_confidence.max()) <= 0:
        raise InputError(f"No person: {name} carries a '{KEY}' text in which nothing is visible.")
    return pose.transformed(scale)
