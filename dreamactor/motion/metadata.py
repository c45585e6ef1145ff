"""A photo may carry its own landmarks: a PNG with the text chunk `dreamactor:pose` is not searched for a person.

For drawings, in which models trained on photographs see nobody, and for whoever has better landmarks. The text is JSON:
`width` and `height` of the picture the pixels count in, and the fields of `PoseSequence` for one frame.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreamactor.errors import InputError
from dreamactor.motion.image import read_text
from dreamactor.motion.pose import FIELDS, JOINTS, PoseSequence

KEY = "dreamactor:pose"
LARGEST = 100_000  # pixels on a side
REACH = 10  # picture sides within which every point of a person lies who is seen in it
IN_PIXELS = ("joints", "hands", "head_center", "head_radius")


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

    Raises InputError when it carries one that cannot be read, or that no picture of a person could have.
    """
    text = read_text(data, KEY)
    if text is None:
        return None
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as not finite
            pose = _parsed(json.loads(text), height, width)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{name} carries a '{KEY}' text that cannot be read: {error}.") from error
    if max(pose.confidence.max(), pose.head_confidence.max()) <= 0:
        raise InputError(f"No person: {name} carries a '{KEY}' text in which nothing is visible.")
    return pose


def _parsed(values: Any, height: int, width: int) -> PoseSequence:
    if list(values["joint_names"]) != list(JOINTS):
        raise ValueError("its joints are not this version's")
    own = float(values["height"]), float(values["width"])
    if not all(1 <= side <= LARGEST for side in own):
        raise ValueError(f"height and width are {own[0]:g} and {own[1]:g}, and must be from 1 to {LARGEST} pixels")
    if not 0.98 < height * own[1] / (width * own[0]) < 1.02:
        raise ValueError(f"they are of a picture of {own[1]:g}x{own[0]:g}, and it was cropped or stretched since")
    pose = PoseSequence(**{field: np.asarray([values[field]], np.float32) for field in FIELDS})
    pose = pose.transformed((height / own[0] + width / own[1]) / 2)
    for field in FIELDS:
        most = REACH * max(height, width) if field in IN_PIXELS else 1.01  # rounded shares and directions
        if not (np.abs(getattr(pose, field)) <= most).all():
            raise ValueError(f"a value of {field} is not finite or too large")
    if not pose.head_radius[0] > 0.01:
        raise ValueError("the head has no size")
    return pose
