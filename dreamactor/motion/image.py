"""Photos in: bytes of any usual format to an upright 8-bit RGB picture."""

from __future__ import annotations

import contextlib
import io
import re
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from dreamactor.errors import InputError
from dreamactor.motion.limits import Limits, megabytes

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
PAPER = (255, 255, 255)  # what shows through transparent pixels
WHITE = 65535 - 128  # in 16 bits: from here on all rounds to 255


def decode_image(data: bytes, limits: Limits = Limits(), name: str = "the reference image") -> NDArray[np.uint8]:
    """Decodes a photo: uint8 RGB [H, W, 3], turned as its EXIF says, in sRGB, transparency laid on white.

    `name` is how messages call the input. The longest side is at most `limits.image_side`. Raises InputError for
    what is empty, damaged, no picture, or over a limit; the size is checked from the header, before any pixel.
    """
    if not data:
        raise InputError(f"Empty file: {name} has 0 bytes; give a photo (JPEG, PNG, WebP, ...).")
    if len(data) > limits.image_bytes:
        raise InputError(
            f"Too large: {name} has {megabytes(len(data))}; the limit for a photo is {megabytes(limits.image_bytes)}."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own bomb warning: the check below is stricter
        picture = _open(data, name, limits)
        width, height = picture.size
        if width * height > limits.image_pixels:
            raise _too_many_pixels(name, f"{width}x{height} pixels", limits)
        if min(width, height) < limits.smallest_side:
            raise InputError(
                f"Too small: {name} has {width}x{height} pixels; each side needs at least {limits.smallest_side}."
            )
        try:
            return _upright_rgb(picture, limits.image_side)
        except Exception as error:  # a damaged file makes Pillow raise nearly anything
            raise InputError(
                f"Damaged picture: {name} starts as {picture.format} and cannot be read on ({error})."
            ) from error


def read_text(data: bytes, key: str) -> str | None:
    """The text that a PNG carries under `key`, or None."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            text = picture.info.get(key)
    except Exception:  # no PNG, or a damaged one: decode_image says what is wrong with it
        return None
    return text if isinstance(text, str) else None


def _open(data: bytes, name: str, limits: Limits) -> Image.Image:
    Image.init()
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow refuses twice this much by itself, before anybody's cap is asked
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limits.image_pixels)
    try:
        return Image.open(io.BytesIO(data), formats=[known for known in FORMATS if known in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(name, f"{re.findall('[0-9]+', str(error))[0]} pixels", limits) from error
    except Exception as error:
        raise InputError(f"Not a picture: {name} is in no format this system reads ({', '.join(FORMATS)}).") from error


def _too_many_pixels(name: str, found: str, limits: Limits) -> InputError:
    return InputError(
        f"Too many pixels: {name} has {found}; the limit is {limits.image_pixels} pixels. Shrink it first."
    )


def _upright_rgb(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    picture.draft("RGB", (side, side))  # lets the JPEG decoder skip what would be shrunk away; others ignore it
    picture.load()
    with contextlib.suppress(Exception):  # unreadable EXIF: the picture is taken as it lies
        picture = ImageOps.exif_transpose(picture)
    profile = picture.info.get("icc_profile")
    picture = _eight_bits(picture)
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if picture.mode in ("RGB", "L", "1", "LA", "RGBA", "PA", "La", "RGBa") and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    alpha = picture.convert("RGBA").getchannel("A") if picture.mode in ("LA", "RGBA", "PA", "La", "RGBa") else None
    color = _to_srgb(picture if alpha is None else picture.convert("RGB"), profile)
    if alpha is not None:
        paper = Image.new("RGB", color.size, PAPER)
        paper.paste(color, mask=alpha)
        color = paper
    if max(color.size) > side:
        scale = side / max(color.size)
        size = (max(1, round(color.width * scale)), max(1, round(color.height * scale)))
        color = color.resize(size, Image.Resampling.LANCZOS)
    return np.array(color, np.uint8)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey to 8 bits by range; Pillow's own conversion would clip."""
    if picture.mode.startswith("I;16"):
        deep = np.minimum(np.asarray(picture), WHITE)  # in whole numbers of 16 bits: a large scan fills the memory
        deep += 128
        deep //= 257
        return Image.fromarray(deep.astype(np.uint8))
    if picture.mode in ("I", "F"):
        values: NDArray[np.float32] = np.nan_to_num(np.array(picture, np.float32), copy=False)
        top = float(values.max(initial=0.0))
        values *= 255 / (65535.0 if top > 255 else 1.0 if top <= 1 else 255.0)
        return Image.fromarray(np.rint(np.clip(values, 0, 255, out=values), out=values).astype(np.uint8))
    return picture


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    if profile and picture.mode in ("RGB", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None  # a broken profile: the plain conversion is close enough
        if converted is not None:
            return converted
    return picture.convert("RGB")
