"""Plans without weights: what their sets hold and refuse, and how a session fills them.

TensorRT refits on a GPU alone; here its part is played by a few classes that read the ONNX for real. Not run on a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from dreamactor.engines import EngineFiles, open_engines, read_manifest, sets, tensorrt, trust, write_set
from dreamactor.engines.build_worker import _config
from dreamactor.engines.builder import AMPERE_PLUS, SAME_COMPUTE_CAPABILITY, BuildOptions
from dreamactor.engines.gpu import Gpu
from dreamactor.engines.runtimes import collecting_logger, load_tensorrt
from dreamactor.engines.tensorrt import TensorRTSession, Weights
from dreamactor.errors import EngineError, MissingDependency
from dreamactor.presets import preset

from .conftest import linear_model, record

FILES = ("denoiser.engine", "denoiser.onnx", "denoiser.onnx.data")
WriteSet = Callable[..., Path]


@pytest.fixture
def stripped_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteSet:
    """Writes a set of a stripped plan and `scale` times the linear model's weights; this machine can run it."""
    monkeypatch.setattr(trust, "local_gpu", lambda: Gpu("NVIDIA Nothing 1", "sm89", 2**34, "13.0"))
    monkeypatch.setattr(sets, "runtime_version", lambda runtime: "11.4")
    (tmp_path / FILES[0]).write_bytes(b"a plan without weights")

    def write(scale: float = 2.0, external: bool = True) -> Path:
        linear_model(tmp_path / FILES[1], scale, external)
        described = record("denoiser", runtime="tensorrt", runtime_version="11.4", architecture="sm89")
        paths = tuple(tmp_path / name for name in FILES[: 3 if external else 2])
        write_set(tmp_path / "set", preset("tiny"), "fp32", "tensorrt", [EngineFiles(described, paths)])
        return tmp_path / "set"

    return write


@dataclass
class Engine:
    """A deserialised plan that wants the matrix `weight` [8, 8]."""

    refittable: bool = True
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    streamable_weights_size: int = 0
    num_io_tensors: int = 0

    def create_execution_context(self) -> object:
        return object()


@dataclass
class Refitter:
    engine: Engine
    logger: object
    given: dict[str, np.ndarray] = field(default_factory=dict)

    def get_missing_weights(self) -> list[str]:
        return ["weight"] if np.isnan(self.given["weight"]).any() else []

    def refit_cuda_engine(self) -> bool:
        if self.get_missing_weights():
            return False
        self.engine.weights.update(self.given)
        return True


class OnnxParserRefitter:
    """Takes the initialisers by their names, as TensorRT's does, and wants all that the plan lacks."""

    def __init__(self, refitter: Refitter, logger: object) -> None:
        self.refitter, self.errors = refitter, [] if logger else ["no logger"]

    def refit_from_bytes(self, model: bytes, path: str) -> bool:
        loaded = onnx.load_from_string(model)
        load_external_data_for_model(loaded, str(Path(path).parent))
        found = {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}
        if "weight" not in found:
            self.errors.append("Only successfully refitted 0 weights out of 1")
            return False
        self.refitter.given = found
        return True

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(desc=lambda: self.errors[index])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine that every plan becomes."""
    found = Engine()

    class ILogger:
        Severity = SimpleNamespace(ERROR=1)

    trt: Any = SimpleNamespace(
        ILogger=ILogger, Refitter=Refitter, OnnxParserRefitter=OnnxParserRefitter,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: found),
        TensorIOMode=SimpleNamespace(INPUT=0, OUTPUT=1),
    )  # fmt: skip
    monkeypatch.setattr(tensorrt, "load_tensorrt", lambda runtime: trt)
    monkeypatch.setattr(tensorrt, "Cuda", lambda: SimpleNamespace(activate=lambda: None, close=lambda: None))
    return found


def matrix(path: Path) -> np.ndarray:
    return numpy_helper.to_array(onnx.load(path).graph.initializer[0])


@pytest.mark.parametrize("external", [False, True])
def test_a_session_fills_the_plan_from_the_onnx_beside_it(
    stripped_set: WriteSet, engine: Engine, external: bool
) -> None:
    folder = stripped_set(external=external)
    found = read_manifest(folder).network("denoiser")
    assert [file.path for file in found.files] == list(FILES[: 3 if external else 2])
    assert found.is_stripped
    open_engines(folder).close()
    np.testing.assert_array_equal(engine.weights["weight"], matrix(folder / "denoiser.onnx"))


def test_one_plan_serves_other_weights(stripped_set: WriteSet, engine: Engine) -> None:
    folder = stripped_set(2.0)
    before, plan = matrix(folder / "denoiser.onnx"), read_manifest(folder).network("denoiser").files[0]
    stripped_set(3.0)
    assert read_manifest(folder).network("denoiser").files[0] == plan
    open_engines(folder).close()
    np.testing.assert_allclose(engine.weights["weight"], before * 1.5, rtol=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte_in_any_file_is_refused_before_tensorrt_sees_one(
    stripped_set: WriteSet, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = stripped_set()
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    monkeypatch.setattr(tensorrt, "load_tensorrt", lambda runtime: pytest.fail("it was opened"))
    with pytest.raises(EngineError, match=f"{name} has SHA-256 .* changed"):
        open_engines(folder)


def test_external_data_that_is_not_listed_is_refused(stripped_set: WriteSet, engine: Engine) -> None:
    folder = stripped_set()
    values = json.loads((folder / "manifest.json").read_text())
    values["networks"]["denoiser"]["files"].pop()
    (folder / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(EngineError, match=r"denoiser\.onnx reads 'denoiser\.onnx\.data', which its manifest does not"):
        open_engines(folder)


def test_a_plan_and_its_weights_come_together(stripped_set: WriteSet, engine: Engine) -> None:
    weights = Weights(b"", Path("denoiser.onnx"))
    with pytest.raises(EngineError, match="is a plan without weights, and its set has no ONNX"):
        TensorRTSession(b"plan", "denoiser", "tensorrt")
    engine.refittable = False
    with pytest.raises(EngineError, match="was built to take no weights"):
        TensorRTSession(b"plan", "denoiser", "tensorrt", weights)
    TensorRTSession(b"plan", "denoiser", "tensorrt").close()


def test_weights_of_another_network_are_refused(tmp_path: Path, engine: Engine) -> None:
    path = linear_model(tmp_path / "other.onnx")
    model = onnx.load(path)
    model.graph.initializer[0].name = "matrix"
    with pytest.raises(EngineError, match=r"other\.onnx do not fill the plan of denoiser: Only .* 0 weights out of 1"):
        TensorRTSession(b"plan", "denoiser", "tensorrt", Weights(model.SerializeToString(), path))
    linear_model(path, float("nan"))
    with pytest.raises(EngineError, match=r"do not fill the plan of denoiser: missing weight\. It must be of the same"):
        TensorRTSession(b"plan", "denoiser", "tensorrt", Weights(path.read_bytes(), path))
    assert engine.weights == {}


REQUEST = {"compute_capability": "", "timing_cache": "", "profiles": []}


@pytest.fixture
def rtx() -> Any:
    """TensorRT-RTX: the same names, and its builder's config is real here."""
    try:
        return load_tensorrt("tensorrt_rtx")
    except MissingDependency as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("strip", [False, True])
def test_a_stripped_plan_takes_other_weights_than_it_was_built_with(rtx: Any, strip: bool) -> None:
    builder = rtx.Builder(collecting_logger(rtx, "ERROR")[0])
    config = _config(rtx, builder, builder.create_network(0), {**asdict(BuildOptions(strip=strip)), **REQUEST})
    flags = rtx.BuilderFlag
    found = {name: config.get_flag(getattr(flags, name)) for name in ("STRIP_PLAN", "REFIT", "REFIT_IDENTICAL")}
    assert found == {"STRIP_PLAN": strip, "REFIT": strip, "REFIT_IDENTICAL": False}


@pytest.mark.parametrize("level", [AMPERE_PLUS, SAME_COMPUTE_CAPABILITY])
def test_the_level_reaches_the_builder(rtx: Any, level: str) -> None:
    """TensorRT-RTX's own config drops it, so a plain object takes its place."""
    config = SimpleNamespace()
    builder, network = SimpleNamespace(create_builder_config=lambda: config), SimpleNamespace(num_inputs=0)
    _config(rtx, builder, network, {**asdict(BuildOptions(hardware_compatibility=level)), **REQUEST})
    assert config.hardware_compatibility_level.name == level.replace("-", "_").upper()
