"""Media in and out, in one place: photos, clips, the output file, and the caps on what is accepted."""

from dreamactor.motion.clip import Clip, decode_clip
from dreamactor.motion.image import decode_image
from dreamactor.motion.limits import Limits
from dreamactor.motion.video import VideoWriter

__all__ = ["Clip", "Limits", "VideoWriter", "decode_clip", "decode_image"]
