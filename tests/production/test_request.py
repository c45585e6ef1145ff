"""What is asked for: a checkpoint brings its own sizes, and what a target has no use for is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from dreamactor.engines.builder import BuildOptions
from dreamactor.engines.gpu import Gpu
from dreamactor.engines.onnxruntime import CPU, CUDA
from dreamactor.engines.shapes import Ranges
from dreamactor.errors import EngineError, InputError
from dreamactor.networks import build, save
from dreamactor.presets import PRESETS, preset
from dreamactor.production.keys import Keys
from dreamactor.production.rehearsal import rehearsal
from dreamactor.production.request import Request, make_request

OWN = replace(preset("tiny"), height=96, width=160, fps=30, segment_frames=13)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One called as a preset is, and of other sizes."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save(build(OWN), folder)
    return folder


def asked(tmp_path: Path, checkpoint: Path | None = None, name: str = "tiny", target: str = "cpu") -> Request:
    return make_request(name, "fp16", target, checkpoint, tmp_path / "set", tmp_path / "store")


def test_sizes_are_the_checkpoints_own(tmp_path: Path, checkpoint: Path) -> None:
    request = asked(tmp_path, checkpoint)
    assert request.preset == OWN


def test_the_key_changes_with_the_checkpoints_description(tmp_path: Path, checkpoint: Path) -> None:
    before = Keys(asked(tmp_path, checkpoint)).weights
    assert before == Keys(asked(tmp_path, checkpoint)).weights
    described = json.loads((checkpoint / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").symlink_to(checkpoint / "model.safetensors")
    (other / "config.json").write_text(json.dumps({**described, "fps": 24}))
    assert Keys(asked(tmp_path, other)).weights != before


def test_a_checkpoint_has_a_name_of_its_own(tmp_path: Path) -> None:
    mine = replace(OWN, name="mine")
    save(build(mine), tmp_path / "checkpoint")
    assert asked(tmp_path, tmp_path / "checkpoint", "mine").preset == mine
    with pytest.raises(InputError, match="holds a 'mine' checkpoint, not 'puppet': ask for preset mine"):
        asked(tmp_path, tmp_path / "checkpoint", "puppet")
    with pytest.raises(InputError, match="no preset 'mine'"):
        asked(tmp_path, None, "mine")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "has no config.json"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "does not fit this version"),
        (json.dumps({**OWN.to_dict(), "vae": 3}).encode(), "does not describe a preset"),
        (json.dumps({**OWN.to_dict(), "height": 100}).encode(), "multiples of 16"),
    ],
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, config: bytes | None, reason: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    if config is not None:
        (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(InputError, match=reason):
        asked(tmp_path, tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(OWN.to_dict()))
    with pytest.raises(InputError, match=r"is no checkpoint, for it has no model\.safetensors"):
        asked(tmp_path, tmp_path)


def test_a_checkpoint_is_described_without_torch(tmp_path: Path, checkpoint: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dreamactor.production.request import make_request\n"
        "print(make_request('tiny', 'int8', 'cpu', Path(sys.argv[1]), Path(sys.argv[2])).preset.width)\n"
        "print([name for name in ('torch', 'onnx', 'cv2') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(checkpoint), str(tmp_path / "set")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["160", "[]"]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("ranges", "build", "named"),
    [
        (None, BuildOptions(weight_streaming=True), "weight streaming"),
        (None, BuildOptions(attention="native"), "attention"),
        (None, BuildOptions(strip=True, hardware_compatibility="ampere-plus"), "strip, hardware compatibility"),
        (Ranges(2, (32, 32), (128, 128)), None, "references, sizes"),
    ],
)
def test_options_of_tensorrt_are_refused_where_they_do_nothing(
    tmp_path: Path, target: str, ranges: Ranges | None, build: BuildOptions | None, named: str
) -> None:
    with pytest.raises(InputError, match=f"Target '{target}' is ONNX files, .*: leave out {named}, which TensorRT"):
        make_request("tiny", "fp32", target, None, tmp_path / "set", tmp_path / "store", ranges, build)
    assert asked(tmp_path).build == BuildOptions()


@pytest.mark.parametrize(
    ("gpu", "providers", "reason"),
    [
        (None, (CPU, CUDA), "'cuda' is for this machine's NVIDIA GPU, and there is none"),
        (Gpu("NVIDIA Nothing 1", "sm89", 2**34, "13.0"), (CPU,), "'cuda' needs onnxruntime-gpu, .* has CPUExecutionP"),
        (Gpu("NVIDIA Nothing 1", "sm89", 2**34, "13.0"), (CUDA, CPU), ""),
    ],
)
def test_cuda_is_refused_before_the_work_where_it_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None, providers: tuple[str, ...], reason: str
) -> None:
    monkeypatch.setattr("dreamactor.production.request.local_gpu", lambda: gpu)
    monkeypatch.setattr("dreamactor.engines.onnxruntime.available_providers", lambda: providers)
    with pytest.raises(EngineError, match=reason) if reason else nullcontext():
        assert asked(tmp_path, target="cuda").target.name == "cuda"


def on_a_gpu(
    tmp_path: Path, architecture: str, build: BuildOptions, precision: str | None = "fp16", target: str = "tensorrt"
) -> Request:
    """What is made of a request on a machine with a GPU of `architecture`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dreamactor.engines.target.local_gpu", lambda: Gpu("NVIDIA Nothing 1", architecture, 2**34, "13"))
        return make_request("tiny", precision, target, None, tmp_path / "set", tmp_path / "store", None, build)


@pytest.mark.parametrize(
    ("architecture", "target", "precision"),
    [
        ("sm75", "tensorrt", "fp16"),
        ("sm80", "tensorrt", "bf16"),
        ("sm90", "tensorrt", "bf16"),
        ("sm89", "rtx", "bf16"),
        ("sm89", "sm75", "fp16"),
        ("sm89", "cpu", "fp32"),
    ],
)
def test_a_precision_that_is_not_named_is_the_targets_own(
    tmp_path: Path, architecture: str, target: str, precision: str
) -> None:
    assert on_a_gpu(tmp_path, architecture, BuildOptions(), None, target).precision == precision


@pytest.mark.parametrize(
    ("architecture", "target", "precision", "build", "reason"),
    [
        ("sm89", "rtx", "fp16", BuildOptions(strip=True), "Target 'rtx' is TensorRT-RTX, .*: leave out strip and"),
        ("sm89", "sm120", "fp16", BuildOptions(hardware_compatibility="ampere-plus"), "is TensorRT-RTX"),
        ("sm75", "tensorrt", "fp16", BuildOptions(hardware_compatibility="ampere-plus"), "and this GPU is sm75"),
        ("sm89", "tensorrt", "fp8", BuildOptions(hardware_compatibility="ampere-plus"), "fp8 needs SM89"),
        ("sm89", "tensorrt", "fp16", BuildOptions(hardware_compatibility="all"), "choose one of ampere-plus, same-"),
        ("sm89", "sm120", "fp16", BuildOptions(attention="plugin"), "'sm120' is TensorRT-RTX, which has no plugins"),
        ("sm89", "tensorrt", "fp8", BuildOptions(attention="plugin"), "take 16 bits, and fp8 sets have TensorRT's"),
        (
            "sm89", "tensorrt", "fp16", BuildOptions(attention="plugin", hardware_compatibility="ampere-plus"),
            "plugin is compiled for sm89 alone",
        ),
    ],
)  # fmt: skip
def test_engines_for_other_cards_or_without_weights_are_refused_where_they_cannot_be(
    tmp_path: Path, architecture: str, target: str, precision: str, build: BuildOptions, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        on_a_gpu(tmp_path, architecture, build, precision, target)


@pytest.mark.parametrize(
    ("build", "architecture"),
    [
        (BuildOptions(strip=True), "sm89"),
        (BuildOptions(hardware_compatibility="same-compute-capability", attention="plugin"), "sm89"),
        (BuildOptions(strip=True, hardware_compatibility="ampere-plus"), "sm80+"),
    ],
)
def test_tensorrt_has_them_each_with_a_key_of_its_own(tmp_path: Path, build: BuildOptions, architecture: str) -> None:
    request, plain = on_a_gpu(tmp_path, "sm89", build), on_a_gpu(tmp_path, "sm89", BuildOptions())
    assert request.build.architecture(request.target) == architecture
    keys, others = Keys(request), Keys(plain)
    precision = keys.precision("denoiser")
    assert precision == others.precision("denoiser")
    assert keys.engine("denoiser", precision, "11.4") != others.engine("denoiser", precision, "11.4")


def test_a_large_presets_engines_take_the_size_that_it_is_compared_at(tmp_path: Path) -> None:
    small = rehearsal(PRESETS["m1"])
    assert asked(tmp_path, None, "m1", "sm89").ranges == Ranges(smallest=(small.height, small.width))
    assert asked(tmp_path, None, "tiny", "sm89").ranges == Ranges()
