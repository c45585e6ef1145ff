"""Decoding photos of every kind a phone, a scanner or an attacker makes."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from dreamactor.errors import InputError
from dreamactor.motion.image import decode_image
from dreamactor.motion.limits import Limits

RED, GREEN = (220, 30, 20), (20, 200, 40)


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def two_halves() -> Image.Image:
    """Red on the left, green on the right, 60 wide and 40 high."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30], pixels[:, 30:] = RED, GREEN
    return Image.fromarray(pixels)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_usual_formats(form: str) -> None:
    pixels = decode_image(encoded(two_halves(), form))
    assert pixels.shape == (40, 60, 3)
    assert np.abs(pixels[20, 10].astype(int) - RED).max() < 12
    assert np.abs(pixels[20, 50].astype(int) - GREEN).max() < 12


@pytest.mark.parametrize(("orientation", "red_at"), [(1, (20, 5)), (3, (20, 55)), (6, (5, 20)), (8, (55, 20))])
def test_exif_turned_photos_stand_upright(orientation: int, red_at: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_image(encoded(two_halves(), "JPEG", exif=exif, quality=95))
    assert pixels.shape[:2] == ((60, 40) if orientation in (6, 8) else (40, 60))
    assert np.abs(pixels[red_at].astype(int) - RED).max() < 12


def test_grey_and_sixteen_bit_keep_their_range() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (40, 1))
    pixels = decode_image(encoded(Image.fromarray(ramp)))
    assert pixels[0, ::63].tolist() == [[0, 0, 0], [255, 255, 255]]
    assert np.abs(pixels[0, :, 0].astype(float) - ramp[0] / 257).max() <= 1
    eight = decode_image(encoded(Image.fromarray((ramp // 257).astype(np.uint8))))
    assert np.abs(eight.astype(int) - pixels).max() <= 1
    real = decode_image(encoded(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"))
    assert np.abs(real.astype(int) - pixels).max() <= 1


def test_a_deep_scan_takes_little_more_memory_than_its_pixels() -> None:
    ramp = (np.arange(2_000_000) % 65536).astype(np.uint16).reshape(1000, 2000)
    data = encoded(Image.fromarray(ramp))
    tracemalloc.start()
    pixels = decode_image(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(pixels[..., 0], np.rint(ramp / 257))
    assert peak < 12 * ramp.size


def test_cmyk_is_converted_not_inverted() -> None:
    pixels = decode_image(encoded(two_halves().convert("CMYK"), "JPEG", quality=95))
    assert np.abs(pixels[20, 10].astype(int) - RED).max() < 25


def test_colours_are_those_of_the_profile() -> None:
    """Its red and blue are exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = 132 + 12 * int.from_bytes(profile[128:132], "big")
    exchanged = profile[:tags].replace(b"rXYZ", b"none").replace(b"bXYZ", b"rXYZ").replace(b"none", b"bXYZ")
    pixels = decode_image(encoded(two_halves(), icc_profile=exchanged + profile[tags:]))
    assert np.abs(pixels[20, 10].astype(int) - RED[::-1]).max() < 12


def test_transparency_shows_white() -> None:
    picture = two_halves().convert("RGBA")
    alpha = np.full((40, 60), 255, np.uint8)
    alpha[:, 30:] = 0
    picture.putalpha(Image.fromarray(alpha))
    pixels = decode_image(encoded(picture))
    assert pixels[20, 10].tolist() == list(RED)
    assert pixels[20, 50].tolist() == [255, 255, 255]
    palette = two_halves().convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    pixels = decode_image(encoded(palette, "PNG", transparency=palette.getpixel((50, 20))))
    assert pixels[20, 50].tolist() == [255, 255, 255]
    assert pixels[20, 10].tolist() == list(RED)


def test_large_photos_are_shrunk() -> None:
    pixels = decode_image(encoded(two_halves().resize((3000, 2000)), "JPEG"))
    assert pixels.shape == (1365, 2048, 3)


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height and whose data is nearly nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def test_bombs_are_refused_from_the_header() -> None:
    for width, height in ((20_000, 20_000), (9_400, 9_400), (200_000, 500)):
        found = rf"({width}x{height}|{width * height}) pixels"
        with pytest.raises(InputError, match=rf"photo 2 has {found}; the limit is 80000000 pixels\. Shrink it"):
            decode_image(png_of(width, height), name="photo 2")


def test_a_higher_cap_holds_where_pillow_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # refuses more than twice as many
    assert decode_image(encoded(two_halves()), Limits(image_pixels=2400)).shape == (40, 60, 3)
    with pytest.raises(InputError, match="60x40 pixels; the limit is 1000 pixels"):
        decode_image(encoded(two_halves()), Limits(image_pixels=1000))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Empty file: the reference image has 0 bytes"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "Not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 10, "Not a picture"),
        (encoded(two_halves(), "JPEG")[:300], "Damaged picture|Not a picture"),
        (encoded(Image.effect_noise((90, 90), 80))[:2000], "Damaged picture"),
        (encoded(two_halves().resize((20, 20))), "Too small: the reference image has 20x20 pixels"),
    ],
)
def test_bad_photos_are_named(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_image(data)


def test_too_many_bytes() -> None:
    with pytest.raises(InputError, match=r"has 0\.0 MB; the limit for a photo is 0\.0 MB"):
        decode_image(encoded(two_halves()), Limits(image_bytes=10))
