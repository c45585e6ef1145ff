"""The output file: its sound in time, the same bytes each time, nothing left in the temporary folder."""

import io
import random
import tempfile
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from dreamactor.errors import DreamActorError
from dreamactor.motion.clip import decode_clip
from dreamactor.motion.video import VideoWriter
from tests.disk import full_disk
from tests.motion.clips import heard, make_broadcast, make_clip, make_late_broadcast, make_vorbis, with_second_track


def noise(count: int, height: int = 192, width: int = 320) -> np.ndarray:
    generator = np.random.default_rng(1)
    coarse = generator.integers(0, 256, (count, height // 8, width // 8, 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


def write(frames: np.ndarray, fps: float = 10, audio_from: bytes | None = None) -> bytes:
    writer = VideoWriter(fps, frames.shape[1:3], audio_from)
    for frame in frames:
        writer.write(frame)
    return writer.close()


def streams(data: bytes) -> dict[str, tuple[str, float]]:
    with av.open(io.BytesIO(data)) as container:
        return {s.type: (s.codec.canonical_name, float(s.duration * s.time_base)) for s in container.streams}


def test_frames_come_back() -> None:
    frames = noise(7)
    clip = decode_clip(write(frames), 10)
    assert clip.frames.shape == frames.shape
    middle = np.s_[:, 4::8, 4::8]
    assert np.abs(clip.frames[middle].astype(int) - frames[middle]).mean() < 12
    for color in ((200, 30, 40), (20, 180, 60), (30, 50, 220), (128, 128, 128)):
        flat = np.tile(np.uint8(color), (3, 64, 64, 1))
        assert np.abs(decode_clip(write(flat), 10).frames.mean(axis=(0, 1, 2)) - color).max() < 3


def test_the_same_frames_give_the_same_bytes() -> None:
    sound = make_clip([k / 10 for k in range(20)], sound="aac")
    assert len({write(noise(20), audio_from=sound) for _ in range(5)}) == 1


@pytest.mark.parametrize(
    ("container", "codec", "sound", "expected"),
    [
        ("mp4", "libx264", "aac", "aac"),
        ("webm", "libvpx-vp9", "libopus", "opus"),
        ("matroska", "libx264", "pcm_s16le", "aac"),
        ("mov", "libx264", "pcm_s16be", "aac"),
        ("mp4", "libx264", "libmp3lame", "mp3"),
        ("mpegts", "libx264", "aac", "aac"),
        ("avi", "libx264", "libmp3lame", "mp3"),
        ("flv", "libx264", "aac", "aac"),
    ],
)
def test_sound_is_kept_in_time_and_cut(container: str, codec: str, sound: str, expected: str) -> None:
    source = make_clip([k / 10 for k in range(50)], (64, 96), container, codec, sound, duration=5.0)
    output = write(noise(32, 64, 96), audio_from=source)
    (video, video_length), (audio, length) = streams(output)["video"], streams(output)["audio"]
    assert (video, audio) == ("h264", expected)
    assert video_length == pytest.approx(3.2, abs=0.01)
    assert length == pytest.approx(3.2, abs=0.06)
    assert heard(output) == pytest.approx(heard(source)[:4], abs=0.012)
    assert heard(output) == pytest.approx([0, 1, 2, 3], abs=0.03)


@pytest.mark.parametrize("sound", ["aac", "pcm_s16le"])
def test_sound_follows_a_picture_that_starts_late(sound: str) -> None:
    source = make_clip([0.5 + k / 10 for k in range(35)], (64, 96), "matroska", "libx264", sound, duration=4.0)
    assert heard(write(noise(30, 64, 96), audio_from=source)) == pytest.approx([0.5, 1.5, 2.5], abs=0.03)


def test_sound_that_lost_packets_on_the_way_has_gaps() -> None:
    """Broadcasts do; the muxer's own filters take no frame without its head, or with half of another's."""
    source = make_clip([k / 10 for k in range(50)], (64, 96), "mpegts", "libx264", "aac", duration=5.0)
    whole = [source[at : at + 188] for at in range(0, len(source), 188)]
    for seed in (25, 35, 41, 45):  # of those that were refused
        packets, draw = list(whole), random.Random(seed)
        for _ in range(3):
            at = draw.randrange(8, len(packets) - 3)
            del packets[at : at + 2]
        output = write(noise(36, 64, 96), audio_from=b"".join(packets))
        assert len(decode_clip(output, 10).frames) == 36
        codec, length = streams(output)["audio"]
        assert codec == "aac"
        assert length == pytest.approx(3.6, abs=0.5)


def test_half_a_packet_of_sound_at_the_end_of_a_cut_file_is_left_out() -> None:
    source = make_clip(
        [k / 10 for k in range(50)], sound="aac", duration=5.0, keyframe_every=10, pictures=[*noise(50, 64, 96)],
        options={"movflags": "frag_keyframe+empty_moov"},
    )  # fmt: skip
    damaged, counts = 0, list[int]()
    for share in range(40, 100, 3):
        cut = source[: len(source) * share // 100]
        with suppress(av.error.InvalidDataError), av.open(io.BytesIO(cut)) as container:  # it may be cut in a header
            if not any(packet.is_corrupt for packet in container.demux(audio=0)):
                continue
            damaged += 1
            with av.open(io.BytesIO(write(noise(20, 64, 96), audio_from=cut))) as made:
                counts.append(sum(1 for _ in made.decode(audio=0)))
    assert len(counts) == damaged > 0
    assert min(counts) > 10


def test_sound_that_changes_its_format_half_way_is_kept_in_time() -> None:
    assert heard(write(noise(38, 64, 96), audio_from=make_broadcast())) == pytest.approx([1, 2, 3], abs=0.03)


def test_sound_that_needs_no_resampling_is_kept_in_time() -> None:
    assert heard(write(noise(38, 64, 96), audio_from=make_vorbis())) == pytest.approx([0, 1, 2, 3], abs=0.03)


def test_no_sound_and_unreadable_sound_are_no_hindrance() -> None:
    assert set(streams(write(noise(3), audio_from=make_clip([0, 0.1, 0.2])))) == {"video"}
    assert set(streams(write(noise(3), audio_from=b"nothing"))) == {"video"}


@pytest.mark.parametrize("default", [0, 1])
def test_the_track_that_a_player_would_play_is_taken(default: int) -> None:
    """Two languages: the second clicks half a second after the first."""
    source = make_clip([k / 10 for k in range(30)], container="matroska", sound="aac", duration=3.0)
    clip = with_second_track(source, later=0.5, default=default)
    assert heard(write(noise(28, 64, 96), audio_from=clip)) == pytest.approx(
        [default * 0.5 + second for second in range(3)], abs=0.03
    )


def test_sound_that_mp4_cannot_hold_is_encoded() -> None:
    clip = make_clip([k / 10 for k in range(20)], container="avi", sound="libmp3lame", sound_rate=11025)

    assert streams(write(noise(20), audio_from=clip))["audio"][0] == "aac"


def test_sound_that_is_announced_and_empty_is_left_out() -> None:
    clip = make_clip([k / 10 for k in range(20)], container="mpegts", sound="aac", duration=0)

    assert list(streams(write(noise(20), audio_from=clip))) == ["video"]


@pytest.mark.parametrize(("late", "codec"), [(4, "mp2"), (12, "mp2"), (12, "aac")])
def test_sound_of_a_broadcast_may_begin_late(late: int, codec: str) -> None:
    """Later than where FFmpeg stops looking what there is."""
    clip = make_late_broadcast(late, codec)
    assert heard(write(noise(10 * (late + 3)), audio_from=clip)) == pytest.approx(range(late, late + 3), abs=0.03)


def test_sound_follows_the_first_picture_of_a_cut_stream() -> None:
    """A cut between keyframes: pictures begin at the next one, sound would begin before it."""
    whole = make_clip([k / 10 for k in range(60)], container="mpegts", sound="aac", keyframe_every=10)
    packets = len(whole) // 188
    cut = whole[: 3 * 188] + whole[packets // 3 * 188 :]  # the tables, then what comes after a third

    clip = decode_clip(cut, 10)
    assert heard(write(noise(len(clip.frames)), audio_from=cut)) == pytest.approx(
        range(len(clip.frames) // 10), abs=0.03
    )


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_unfinished_file_has_no_name_that_a_killed_process_could_leave(temporary: Path) -> None:
    writer = VideoWriter(10, (192, 320))
    for frame in noise(30):
        writer.write(frame)
        assert list(temporary.iterdir()) == []
    assert len(decode_clip(writer.close(), 10).frames) == 30
    assert list(temporary.iterdir()) == []


def test_players_may_begin_before_the_whole_file_has_arrived() -> None:
    data = write(noise(5))
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_full_disk_is_said_and_nothing_is_left(temporary: Path) -> None:
    with full_disk(100_000), pytest.raises(DreamActorError, match=r"cannot be written to .*Make room"):
        write(noise(40))
    assert list(temporary.iterdir()) == []


def test_sizes_and_rates() -> None:
    writer = VideoWriter(23.976, (48, 64))
    for frame in noise(4, 48, 64):
        writer.write(frame)
    with pytest.raises(ValueError, match=r"a frame is \(96, 128\)"):
        writer.write(noise(1, 96, 128)[0])
    with av.open(io.BytesIO(writer.close())) as made:
        (video,) = made.streams.video
        assert (video.height, video.width, video.frames) == (48, 64, 4)
        assert float(video.average_rate) == pytest.approx(23.976, abs=0.001)
    with pytest.raises(ValueError, match="must be even"):
        VideoWriter(10, (63, 64))
