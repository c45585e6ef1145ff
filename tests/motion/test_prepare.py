"""From files to network inputs, on a real photo and a real clip."""

import io
import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreamactor.errors import InputError
from dreamactor.motion.assets import media_file
from dreamactor.motion.clip import decode_clip
from dreamactor.motion.draw import draw_controls
from dreamactor.motion.faces import crop_faces, face_boxes
from dreamactor.motion.landmarks import Landmarker
from dreamactor.motion.letterbox import Frame, fit
from dreamactor.motion.limits import Limits
from dreamactor.motion.metadata import KEY, embed_pose, pose_from_metadata
from dreamactor.motion.pose import FIELDS
from dreamactor.motion.prepare import MotionInputs, _Report, prepare
from dreamactor.presets import Preset, preset
from tests.motion.test_draw import standing, yaw
from tests.motion.test_video import write


def sized(height: int, width: int) -> Preset:
    """A preset of another picture, at 12 frames a second."""
    return replace(preset("tiny"), height=height, width=width)


@pytest.fixture(scope="module")
def landmarker() -> Landmarker:
    return Landmarker()


@pytest.fixture(scope="module")
def photo() -> bytes:
    return media_file("astronaut.png").read_bytes()


@pytest.fixture(scope="module")
def clip() -> bytes:
    return media_file("single_face.mp4").read_bytes()


@pytest.fixture(scope="module")
def prepared(landmarker: Landmarker, photo: bytes, clip: bytes) -> MotionInputs:
    return prepare([photo], clip, sized(128, 128), landmarker=landmarker)


def test_shapes_and_choices(prepared: MotionInputs) -> None:
    assert prepared.references.shape == (1, 128, 128, 3)
    assert prepared.reference_controls.shape == (1, 128, 128, 6)
    assert prepared.controls.shape == (29, 128, 128, 6)
    assert prepared.faces.shape == (29, 224, 224, 3)
    arrays = (prepared.references, prepared.reference_controls, prepared.controls[:], prepared.faces)
    assert {array.dtype for array in arrays} == {np.dtype(np.uint8)}
    assert (prepared.crop, prepared.fps) == ((0, 0, 128, 128), 12)
    assert prepared.notes[0] == "scale 'half' (what the photo shows)"
    assert any("kept as in the photo" in note for note in prepared.notes)


def test_the_head_sphere_lies_on_the_photos_head(prepared: MotionInputs) -> None:
    for control in (prepared.reference_controls[0], *prepared.controls[::7]):
        rows, columns = np.nonzero(control[..., 3:].any(axis=-1))
        assert (columns.mean(), rows.mean()) == pytest.approx((57, 25), abs=4)
        assert np.sqrt(len(rows) / np.pi) == pytest.approx(18, abs=2)
        middle = control[round(rows.mean()), round(columns.mean()), 3:]
        assert middle[2] > 220  # facing us


def test_faces_show_the_driver_and_change(prepared: MotionInputs) -> None:
    motion = np.abs(np.diff(prepared.faces.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert motion.max() > 4  # he begins to smile
    assert motion.min() < 3
    skin = prepared.faces[:, 90:130, 60:160].mean(axis=(0, 1, 2))
    assert skin[0] > skin[1] > skin[2] > 60


def test_where_the_person_is_lost_the_face_is_kept(landmarker: Landmarker, photo: bytes, clip: bytes) -> None:
    frames = decode_clip(clip, 12).frames[:, ::2, ::2].copy()
    frames[12:16] = 90
    found = prepare([photo], write(frames, 12), sized(64, 64), landmarker=landmarker)
    assert any("not found in 4 of" in note for note in found.notes)
    assert np.array_equal(found.faces[13], found.faces[11])


def test_a_person_at_the_far_side_of_a_wide_clip_has_shoulders(
    landmarker: Landmarker, photo: bytes, clip: bytes
) -> None:
    frames = decode_clip(clip, 12, max_frames=6).frames[:, ::2, ::2]
    wide = write(np.pad(frames, ((0, 0), (0, 0), (frames.shape[2], 0), (0, 0))), 12)
    found = prepare([photo], wide, sized(64, 64), landmarker=landmarker)
    (kept,) = (note for note in found.notes if "kept as in the photo" in note)
    assert "right shoulder" not in kept


def test_the_same_input_gives_the_same_output(prepared: MotionInputs, photo: bytes, clip: bytes) -> None:
    again = prepare([photo], clip, sized(128, 128))
    for name in ("references", "reference_controls", "controls", "faces", "notes"):
        assert np.array_equal(getattr(again, name), getattr(prepared, name)), name


def test_progress_grows_and_can_stop(landmarker: Landmarker, photo: bytes, clip: bytes) -> None:
    seen: list[float] = []

    def stop(share: float) -> None:
        seen.append(share)
        if share > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([photo], clip, sized(128, 128), max_frames=12, on_progress=stop, landmarker=landmarker)
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[-1] < 1


def test_progress_does_not_go_back_where_work_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = itertools.count(1), list[float]()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    report = _Report(told.append)
    for share in (0.1, 0.2, 0.05, 0.3):
        report(share)
    assert told == [0.1, 0.2, 0.2, 0.3]


def test_wide_photos_are_framed_and_further_views_are_fitted(landmarker: Landmarker, photo: bytes, clip: bytes) -> None:
    picture = Image.open(io.BytesIO(photo)).convert("RGB")
    wide = io.BytesIO()
    picture.crop((0, 0, 512, 301)).save(wide, "JPEG", quality=95)
    inputs = prepare([wide.getvalue(), photo], clip, sized(96, 160), max_frames=5, scale="face", landmarker=landmarker)
    assert inputs.references.shape == (2, 96, 160, 3)
    assert inputs.crop == (1, 0, 94, 160)
    assert inputs.notes[0] == "scale 'face' (as asked)"
    assert len(inputs.controls) == 5
    assert inputs.reference_controls[1].any()


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        ([], "0 reference images were given; 1 to 8 are accepted"),
        (["astronaut.png"] * 9, "9 reference images were given"),
        (["coffee.png"], "No person found in the reference image"),
        (["astronaut.png", "coffee.png"], "No person found in reference image 2"),
    ],
)
def test_bad_references_are_named(landmarker: Landmarker, clip: bytes, photos: list[str], message: str) -> None:
    data = [media_file(name).read_bytes() for name in photos]
    with pytest.raises(InputError, match=message):
        prepare(data, clip, sized(64, 64), landmarker=landmarker)


def test_bad_clips_are_named(landmarker: Landmarker, photo: bytes, clip: bytes) -> None:
    with pytest.raises(InputError, match="Not a video: the driving clip"):
        prepare([photo], photo, sized(64, 64), landmarker=landmarker)
    with pytest.raises(InputError, match=r"Too long: the driving clip has 2\.4 s"):
        prepare([photo], clip, sized(64, 64), Limits(clip_seconds=2), landmarker=landmarker)


def drawing() -> np.ndarray:
    """A picture in which no landmark model sees a person."""
    control = draw_controls(standing(), 128, 128)[0]
    return 255 - np.maximum(control[..., :3], control[..., 3:])


def test_a_drawing_may_carry_its_landmarks(landmarker: Landmarker, clip: bytes) -> None:
    data = embed_pose(drawing(), standing())
    carried = pose_from_metadata(data, 64, 64)
    assert carried is not None
    for name in FIELDS:
        assert getattr(carried, name) == pytest.approx(getattr(standing().transformed(0.5), name), abs=1e-3)
    inputs = prepare([data], clip, sized(64, 64), max_frames=5, landmarker=landmarker)
    assert inputs.notes[0] == "scale 'full' (what the photo shows)"
    assert "the reference image carries its own landmarks" in inputs.notes
    assert np.array_equal(inputs.reference_controls[0], draw_controls(standing().transformed(0.5), 64, 64)[0])
    plain = io.BytesIO()
    Image.fromarray(drawing()).save(plain, "PNG")
    with pytest.raises(InputError, match="No person found"):
        prepare([plain.getvalue()], clip, sized(64, 64), landmarker=landmarker)


@pytest.mark.parametrize(
    "change",
    [
        (b'"neck"', b'"knee"'),
        (b'"width": 128', b'"width": "x"'),
        (b'"width": 128', b'"width": -128'),
        (b'"width": 128', b'"width": 1e-300'),
        (b'"height": 128', b'"height": NaN'),
        (b'"height": 128', b'"height": 1' + b"0" * 400),
        (b'"height": 128', b'"height": ' + b"[" * 100_000),
        (b"13.0", b" NaN"),
        (b"13.0", b"13e30"),
        (b"13.0", b"1e-30"),
        (b"13.0", b"13000"),
    ],
)
def test_carried_landmarks_are_checked(change: tuple[bytes, bytes]) -> None:
    with Image.open(io.BytesIO(embed_pose(drawing(), standing()))) as picture:
        text = picture.info[KEY].encode().replace(*change).decode()
        changed = PngInfo()
        changed.add_text(KEY, text)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", pnginfo=changed)
    with pytest.raises(InputError, match=f"the photo carries a '{KEY}' text that cannot be read"):
        pose_from_metadata(buffer.getvalue(), 128, 128, "the photo")
    assert pose_from_metadata(b"no picture", 10, 10) is None


def test_landmarks_of_a_picture_that_was_cropped_or_stretched_since_are_refused() -> None:
    data = embed_pose(drawing(), standing())
    assert pose_from_metadata(data, 96, 96) is not None
    for height, width in ((128, 96), (64, 128)):
        with pytest.raises(InputError, match="are of a picture of 128x128, and it was cropped or stretched since"):
            pose_from_metadata(data, height, width)


def test_face_boxes_follow_the_head_and_gaps_repeat() -> None:
    poses = standing(4)
    poses.head_center[2] += (10, 0)
    poses.head_confidence[[0, 3]] = 0
    boxes = face_boxes(poses)
    assert np.isnan(boxes[[0, 3]]).all()
    assert boxes[2] - boxes[1] == pytest.approx([10, 0, 10, 0])
    frames = np.zeros((4, 128, 128, 3), np.uint8)
    frames[1, :, 64:], frames[2, :26] = 200, 100
    faces = crop_faces(frames, boxes)
    assert np.array_equal(faces[0], faces[1])
    assert np.array_equal(faces[3], faces[2])
    assert faces[1, 100, 20].max() < 10
    assert faces[1, 100, 200].min() > 190
    assert not crop_faces(frames, np.full((4, 4), np.nan, np.float32)).any()


@pytest.mark.parametrize("degrees", [40, -40])
def test_the_face_box_lies_where_the_head_looks(degrees: int) -> None:
    poses = standing(rotation=yaw(degrees))
    left, top, right, bottom = face_boxes(poses)[0] - np.tile(poses.head_center[0], 2)
    assert (left + right) / 2 == pytest.approx(-0.35 * 13 * np.sin(np.radians(degrees)), abs=0.01)
    assert (top + bottom) / 2 == pytest.approx(0.12 * 13, abs=0.01)  # towards the chin


def test_the_frame_keeps_the_photos_shape() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (301, 207, 3), np.uint8)
    frame = Frame.of(picture, 96, 160)
    top, left, height, width = frame.crop
    assert (top, height) == (0, 96)
    assert width == 66
    assert left == 47
    framed = fit(picture, frame)
    assert framed.shape == (96, 160, 3)
    assert framed[:, :20].std() < framed[:, left : left + width].std()
