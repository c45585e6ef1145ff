"""Decoding clips: which frame is shown when, turned how, and what is refused."""

import dataclasses
import io
import struct
from fractions import Fraction

import numpy as np
import pytest

from dreamactor.errors import InputError
from dreamactor.motion.clip import decode_clip
from dreamactor.motion.limits import Limits
from tests.motion.clips import make_clip, shifted


def indices(frames: np.ndarray) -> list[int]:
    """Which frame of `make_clip` each one is."""
    return [round((float(frame.mean()) - 10) / 4) for frame in frames]


def announcing_too_little(data: bytes) -> bytes:
    """The same MP4, whose track lasts one tick by its header."""
    short = bytearray(data)
    struct.pack_into(">I", short, data.index(b"mdhd") + 20, 1)
    return bytes(short)


def test_variable_frame_rate_follows_the_timestamps() -> None:
    clip = decode_clip(make_clip([0, 0.1, 0.2, 0.6, 0.65, 0.7, 1.0, 1.1]), 10)
    assert indices(clip.frames) == [0, 1, 2, 2, 2, 2, 3, 5, 5, 5, 6, 7]


def test_a_clip_may_last_longer_than_it_announces() -> None:
    """The length of an MP4 track counts pictures as they are decoded, not as they are shown: B-frames, a held one."""
    clip = decode_clip(make_clip([0, 0.1, 0.2, 0.3, 0.4, 4.0]), 10)
    assert indices(clip.frames)[:42] == [0, 1, 2, 3, *[4] * 36, 5, 5]


def test_a_clip_that_announces_too_few_frames_keeps_to_the_memory_of_all_of_them() -> None:
    data = make_clip([k / 10 for k in range(60)], size=(160, 120))
    limits = Limits(clip_memory=60 * 160 * 120 * 3 // 4)
    honest = decode_clip(data, 10, limits)
    assert honest.frames.nbytes <= limits.clip_memory
    clip = decode_clip(announcing_too_little(data), 10, limits)
    assert len(clip.frames) == 60
    assert clip.frames.nbytes <= limits.clip_memory


def test_a_clip_that_announces_too_few_frames_is_still_too_long() -> None:
    short = announcing_too_little(make_clip([k / 10 for k in range(60)]))
    with pytest.raises(InputError, match="Too long: the driving clip has more than 11 frames"):
        decode_clip(short, 10, Limits(clip_seconds=1.0))


def test_a_clip_one_frame_over_by_rounding_is_taken() -> None:
    assert len(decode_clip(make_clip([k / 10 for k in range(31)]), 10, Limits(clip_seconds=3.0)).frames) == 31


def test_avi_has_no_times_of_showing_and_keeps_every_picture() -> None:
    clip = decode_clip(make_clip([k / 25 for k in range(40)], container="avi"), 25)
    assert indices(clip.frames) == list(range(40))


def test_recordings_that_were_joined_are_said_to_lose_what_comes_after() -> None:
    data = make_clip([k / 10 for k in range(30)], container="mpegts")
    assert decode_clip(data, 10).notes == ()
    clip = decode_clip(data + data, 10)
    assert indices(clip.frames) == list(range(30))
    assert clip.notes == ("in the driving clip time goes back, as where recordings are joined: 3.0 s are left out",)


def test_rates_go_down_and_up() -> None:
    data = make_clip([k / 30 for k in range(30)])
    assert indices(decode_clip(data, 10).frames) == list(range(0, 30, 3))
    assert indices(decode_clip(data, 30).frames) == list(range(30))
    assert indices(decode_clip(data, 60).frames) == [k // 2 for k in range(60)]
    late = decode_clip(make_clip([2 + k / 10 for k in range(10)]), 10)
    assert indices(late.frames) == list(range(10))
    assert indices(decode_clip(data, 10, max_frames=4).frames) == [0, 3, 6, 9]


TURNED = {  # (a, b, c, d) of the display matrix, x' = ax + cy and y' = bx + dy: where the upper left corner is shown
    (1, 0, 0, 1): (0, 0), (0, 1, -1, 0): (0, -1), (-1, 0, 0, -1): (-1, -1), (0, -1, 1, 0): (-1, 0),
    (-1, 0, 0, 1): (0, -1), (1, 0, 0, -1): (-1, 0), (0, 1, 1, 0): (0, 0), (0, -1, -1, 0): (-1, -1),
}  # fmt: skip


@pytest.mark.parametrize(("way", "corner"), TURNED.items())
def test_the_display_matrix_turns_and_mirrors_the_picture(
    way: tuple[int, int, int, int], corner: tuple[int, int]
) -> None:
    picture = np.zeros((48, 80, 3), np.uint8)
    picture[:16, :16] = 255
    a, b, c, d = (value * (1 << 16) for value in way)
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    clip = decode_clip(make_clip([0, 0.1, 0.2], (48, 80), pictures=[picture] * 3, matrix=matrix), 10)
    frame = clip.frames[1]
    assert frame.shape[:2] == ((80, 48) if way[0] == 0 else (48, 80))
    bright = [(row, column) for row in (0, -1) for column in (0, -1) if frame[row, column].mean() > 128]
    assert bright == [corner]


def test_a_clip_that_changes_its_shape_half_way_is_refused_and_one_that_changes_its_size_is_not() -> None:
    """A recording whose sender turned his telephone, and one whose line became worse."""
    first = make_clip([k / 10 for k in range(10)], (240, 320), "mpegts")
    for size in ((320, 240), (120, 160)):
        data = first + make_clip([1 + k / 10 for k in range(10)], size, "mpegts")
        if size == (120, 160):
            assert decode_clip(data, 10).frames.shape[1:] == (240, 320, 3)
        else:
            with pytest.raises(InputError, match="changes its shape half way, from 320x240 to 240x320: cut it into"):
                decode_clip(data, 10)


def test_odd_sizes_and_other_codecs() -> None:
    assert decode_clip(make_clip([0, 0.1, 0.2], (51, 77)), 10).frames.shape == (3, 51, 77, 3)
    webm = make_clip([0, 0.1, 0.2], (64, 96), "webm", "libvpx-vp9")
    assert indices(decode_clip(webm, 10).frames) == [0, 1, 2]


def test_colours_come_through() -> None:
    colors = [(200, 30, 40), (20, 180, 60), (30, 50, 220)]
    pictures = [np.tile(np.uint8(color), (64, 96, 1)) for color in colors]
    frames = decode_clip(make_clip([0, 0.1, 0.2], pictures=pictures), 10).frames
    for frame, color in zip(frames, colors, strict=True):
        assert np.abs(frame.mean(axis=(0, 1)) - color).max() < 4


@pytest.mark.parametrize(("aspect", "width"), [(Fraction(2), 128), (Fraction(1, 2), 32)])
def test_pixels_that_are_not_square_become_so(aspect: Fraction, width: int) -> None:
    data = make_clip([0, 0.1, 0.2], (96, 64), aspect=aspect)
    assert decode_clip(data, 10).frames.shape == (3, 96, width, 3)


def test_transparency_is_laid_on_white() -> None:
    picture = np.full((64, 96, 4), (200, 0, 0, 255), np.uint8)
    picture[32:, :, 3] = 0
    data = make_clip([0, 0.1, 0.2], container="mov", codec="png", pictures=[picture] * 3, form="rgba")
    frame = decode_clip(data, 10).frames[1]
    assert frame[10, 10].tolist() == [200, 0, 0]
    assert frame[50, 10].tolist() == [255, 255, 255]


def test_large_and_long_clips_are_shrunk_while_decoding() -> None:
    data = make_clip([k / 10 for k in range(10)], (240, 320))
    small = decode_clip(data, 10, dataclasses.replace(Limits(), clip_side=160))
    assert small.frames.shape == (10, 120, 160, 3)
    assert "320x240; it was shrunk to 160x120" in small.notes[0]
    tall = make_clip([k / 10 for k in range(5)], (320, 240))
    assert decode_clip(tall, 10, dataclasses.replace(Limits(), clip_side=160)).frames.shape == (5, 160, 120, 3)
    fitted = decode_clip(data, 10, dataclasses.replace(Limits(), clip_memory=600_000))
    assert fitted.frames.nbytes <= 610_000
    assert len(fitted.frames) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_seconds": 2.0}, r"Too long: the driving clip has 3\.0 s; the limit is 2 s"),
        ({"clip_frames": 20}, r"the limit is 60 s and 20 frames"),
        ({"clip_pixels": 5000}, r"frames of 96x64; the limit is 5000 pixels"),
        ({"clip_bytes": 100}, r"the limit for a clip is 0\.0 MB"),
        ({"smallest_side": 100}, r"each side needs 100"),
    ],
)
def test_over_a_limit_is_refused_by_name(change: dict[str, float], message: str) -> None:
    data = make_clip([k / 10 for k in range(30)])
    with pytest.raises(InputError, match=message):
        decode_clip(data, 10, dataclasses.replace(Limits(), **change))


def test_the_start_of_a_long_clip_may_be_taken() -> None:
    data, limits = make_clip([k / 10 for k in range(30)]), dataclasses.replace(Limits(), clip_seconds=1.0)
    assert len(decode_clip(data, 10, limits, max_frames=5).frames) == 5
    with pytest.raises(InputError, match="max_frames is 0; at least 2 and at most 1500"):
        decode_clip(data, 10, limits, max_frames=0)


def test_only_the_frames_that_are_taken_count_for_memory_and_progress() -> None:
    data, told = make_clip([k / 10 for k in range(60)], (160, 120)), list[tuple[int, int]]()
    limits = Limits(clip_memory=6 * 160 * 120 * 3)
    clip = decode_clip(data, 10, limits, max_frames=5, on_frame=lambda *count: told.append(count))
    assert clip.frames.shape == (5, 160, 120, 3)
    assert told[-1] == (5, 5)


def test_bad_files_are_named() -> None:
    whole = make_clip([k / 10 for k in range(40)], pictures=list(np.random.default_rng(0).integers(
        0, 255, (40, 64, 96, 3), np.uint8)))  # fmt: skip
    late_index = whole[: whole.index(b"moov") // 2]  # MP4 without its index
    webm = make_clip([k / 10 for k in range(20)], (64, 96), "webm", "libvpx-vp9")
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"
    for data, message in [
        (b"", "Empty file: the driving clip has 0 bytes"),
        (b"no video at all " * 500, "Not a video: the driving clip"),
        (late_index, "Not a video: the driving clip is truncated"),
        (webm[: len(webm) // 2], "Truncated or damaged: the driving clip|No frame of the driving clip"),
        (playlist, "Not a video: the driving clip"),
        (make_clip([0.0]), "Too short: the driving clip has 1 frame"),
    ]:
        with pytest.raises(InputError, match=message):
            decode_clip(data, 10)


def test_a_caller_may_watch_and_stop() -> None:
    seen = []

    def stop_at_three(done: int, expected: int) -> None:
        seen.append((done, expected))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_clip(make_clip([k / 10 for k in range(30)]), 10, on_frame=stop_at_three)
    assert seen == [(1, 30), (2, 30), (3, 30)]


@pytest.mark.parametrize(
    ("container", "codec", "sound"),
    [("matroska", "libx264", "aac"), ("webm", "libvpx-vp9", "libopus"), ("flv", "libx264", "aac")],
)
def test_sound_may_be_longer_than_the_picture(container: str, codec: str, sound: str) -> None:
    """These containers announce only how long their longest stream is."""
    data = make_clip([k / 10 for k in range(20)], container=container, codec=codec, sound=sound, duration=70)

    assert len(decode_clip(data, 10).frames) == 20
    with pytest.raises(InputError, match="Truncated or damaged"):
        decode_clip(data[: len(data) // 2], 10)


class Pipe(io.BytesIO):
    """What is written once cannot be changed, as in a stream: the header never learns the duration."""

    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize(("container", "codec"), [("webm", "libvpx-vp9"), ("matroska", "libx264")])
def test_a_clip_that_announces_no_duration(container: str, codec: str) -> None:
    data = make_clip([k / 10 for k in range(20)], container=container, codec=codec, buffer=Pipe())

    assert len(decode_clip(data, 10).frames) == 20
    with pytest.raises(InputError, match="Too long"):
        decode_clip(data, 10, Limits(clip_seconds=1))


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_short_clip_keeps_its_size_and_knows_its_length(container: str) -> None:
    data = make_clip([k / 10 for k in range(20)], (720, 1280), container, sound="aac")
    told: list[tuple[int, int]] = []

    clip = decode_clip(data, 10, Limits(clip_memory=200_000_000), on_frame=lambda *count: told.append(count))

    assert clip.frames.shape[1:3] == (720, 1280)
    assert told[-1][0] == 20
    assert told[-1][1] <= 21


@pytest.mark.parametrize("sound", ["aac", None])
def test_a_clip_may_begin_later_than_its_clock(sound: str | None) -> None:
    """Matroska announces when a clip ends, not how long it is."""
    pictures = np.random.default_rng(1).integers(0, 256, (20, 64, 96, 3), np.uint8)
    late = shifted(make_clip([k / 10 for k in range(20)], sound=sound, pictures=list(pictures)), 70)

    assert len(decode_clip(late, 10).frames) == 20
    with pytest.raises(InputError, match="Truncated or damaged"):
        decode_clip(late[: len(late) // 2], 10)


def test_an_end_that_is_missing_is_said() -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (100, 64, 96, 3), np.uint8)
    data = make_clip([k / 10 for k in range(100)], container="matroska", pictures=list(pictures))
    assert decode_clip(data, 10).notes == ()
    clip = decode_clip(data[: int(0.94 * len(data))], 10)
    (note,) = clip.notes
    assert note.startswith("the driving clip announces 10.0 s and ends after 9.")


def test_a_codec_without_a_decoder_is_named() -> None:
    unknown = make_clip([0, 0.1, 0.2], container="avi", codec="mpeg4").replace(b"FMP4", b"QQQQ")

    with pytest.raises(InputError, match="codec that this system does not read"):
        decode_clip(unknown, 10)
