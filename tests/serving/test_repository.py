"""The repository that is written for an engine set, read with Triton's own configuration format."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from dreamactor.engines import NETWORKS, read_manifest, trust
from dreamactor.engines.shapes import profiles
from dreamactor.errors import EngineError
from dreamactor.motion.limits import Limits
from dreamactor.presets import preset
from dreamactor.serving import repository as module
from dreamactor.serving.repository import write_repository
from tests.engines.conftest import edit


@pytest.fixture(scope="module")
def repository(tiny_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tiny_engines, tmp_path_factory.mktemp("serving") / "repository", Limits(references=3))


def config(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def test_networks_of_tensorrt_have_a_gpu_and_a_cpu_configuration(
    tiny_engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(tiny_engines)
    plans = {name: replace(record, runtime="tensorrt") for name, record in manifest.networks.items()}
    monkeypatch.setattr(module, "read_manifest", lambda *values: replace(manifest, networks=plans))
    repository = write_repository(tiny_engines, tmp_path / "repository", Limits(references=3))
    for name, record in read_manifest(tiny_engines).networks.items():
        gpu, cpu = config(repository / name / "config.pbtxt"), config(repository / name / "configs" / "cpu.pbtxt")
        on_gpu, on_cpu = gpu.instance_group[0], cpu.instance_group[0]
        assert (gpu.backend, on_gpu.kind) == ("tensorrt", model_config_pb2.ModelInstanceGroup.KIND_GPU)
        assert (cpu.backend, on_cpu.kind) == ("python", model_config_pb2.ModelInstanceGroup.KIND_CPU)
        every = [
            str(index) for index in range(len(profiles(preset("tiny"), name)))
        ]  # Triton takes the first alone else
        assert (list(on_gpu.profile), list(on_gpu.gpus), list(on_cpu.profile)) == (every, [0], [])
        for served in (gpu, cpu):
            assert [(port.name, tuple(port.dims)) for port in served.input] == [
                (s.name, s.shape) for s in record.inputs
            ]
            assert [port.name for port in served.output] == [spec.name for spec in record.outputs]
        assert (repository / name / "1" / "model.plan").read_bytes() == (tiny_engines / f"{name}.onnx").read_bytes()


def test_networks_of_other_runtimes_run_behind_python_everywhere(repository: Path) -> None:
    for name in NETWORKS:
        usual, cpu = config(repository / name / "config.pbtxt"), config(repository / name / "configs" / "cpu.pbtxt")
        assert usual.backend == cpu.backend == "python"
        assert [path.name for path in (repository / name / "1").iterdir()] == ["model.py"]
    assert {path.name for path in repository.iterdir()} >= set(NETWORKS)


def test_ensemble_has_the_tensors_of_the_design(repository: Path) -> None:
    ensemble = config(repository / "dreamactor" / "config.pbtxt")
    bytes_type = model_config_pb2.TYPE_STRING
    assert [(port.name, port.data_type, list(port.dims)) for port in ensemble.input] == [
        ("REFERENCE_IMAGE", bytes_type, [-1]),
        ("DRIVING_VIDEO", bytes_type, [1]),
        ("OPTIONS", bytes_type, [1]),
    ]
    assert [(port.name, port.data_type, list(port.dims)) for port in ensemble.output] == [
        ("EVENT", bytes_type, [1]),
        ("VIDEO", bytes_type, [1]),
    ]
    assert ensemble.model_transaction_policy.decoupled


def test_every_step_is_fed_by_what_comes_before_it(repository: Path) -> None:
    ensemble = config(repository / "dreamactor" / "config.pbtxt")
    known = {port.name for port in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        model = config(repository / step.model_name / "config.pbtxt")
        assert set(step.input_map) == {port.name for port in model.input}
        assert set(step.output_map) == {port.name for port in model.output}
        assert set(step.input_map.values()) <= known
        known = set(step.output_map.values())  # a step may take from one decoupled step only
    assert known == {port.name for port in ensemble.output}


def test_models_are_told_the_set_and_the_limits(repository: Path, tiny_engines: Path) -> None:
    prepare = config(repository / "prepare" / "config.pbtxt")
    values = {key: value.string_value for key, value in prepare.parameters.items()}
    assert Path(values["engines"]) == tiny_engines
    assert '"references": 3' in values["limits"]


def test_folder_without_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"manifest\.json"):
        write_repository(tmp_path, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_every_model_opens_what_was_signed_and_nothing_else(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by the repository, read by the models as Triton hands it to them."""
    final = SimpleNamespace(TRITONSERVER_RESPONSE_COMPLETE_FINAL=1)  # there is no such module outside the server
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", final)
    from dreamactor.serving.backend import Settings

    del sys.modules["dreamactor.serving.backend"]
    key = Ed25519PrivateKey.generate()
    trust.sign(copied, key.private_bytes_raw())
    monkeypatch.chdir(tmp_path)
    public, limits = key.public_key().public_bytes_raw(), Limits(references=3)
    made = write_repository(Path(copied.name), Path("repository"), limits, public)
    models = {}
    for name in ("prepare", "denoise", "finish", *NETWORKS):
        told = json_format.MessageToJson(config(made / name / "config.pbtxt"), preserving_proto_field_name=True)
        models[name] = Settings.from_args({"model_name": name, "model_config": told})
        assert (models[name].engines, models[name].public_key) == (copied, public)  # the server runs elsewhere
        assert models[name].manifest() == read_manifest(copied)
    assert models["prepare"].limits == limits
    trust.sign(copied, Ed25519PrivateKey.generate().private_bytes_raw())
    for model in models.values():
        with pytest.raises(EngineError, match="does not match the public key"):
            model.manifest()


def test_engines_of_two_references_take_no_more(copied: Path, tmp_path: Path) -> None:
    edit(copied, lambda manifest: manifest.update(references=2))
    made = write_repository(copied, tmp_path / "repository", Limits(references=3))
    assert '"references": 2' in config(made / "prepare" / "config.pbtxt").parameters["limits"].string_value


def test_a_set_with_a_network_missing_is_not_served(copied: Path, tmp_path: Path) -> None:
    edit(copied, lambda manifest: manifest["networks"].pop("vae_encoder"))
    with pytest.raises(EngineError, match="no 'vae_encoder'"):
        write_repository(copied, tmp_path / "repository")


def test_a_changed_engine_is_not_served(copied: Path, tmp_path: Path) -> None:
    content = bytearray((copied / "denoiser.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "denoiser.onnx").write_bytes(content)
    with pytest.raises(EngineError, match=r"denoiser\.onnx has SHA-256"):
        write_repository(copied, tmp_path / "repository")


def test_command_writes_a_new_folder_only(tiny_engines: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dreamactor.serving.repository", str(tiny_engines), str(tmp_path / "repository")]
    subprocess.run(command, check=True)
    assert (tmp_path / "repository" / "dreamactor" / "config.pbtxt").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    key = tmp_path / "public.key"
    key.write_bytes(bytes(32))
    unsigned = subprocess.run(
        [*command[:-1], str(tmp_path / "other"), "--public-key", str(key)], capture_output=True, text=True
    )
    assert unsigned.returncode == 1
    assert "has no signature" in unsigned.stderr
    assert not (tmp_path / "other").exists()


def test_command_leaves_nothing_of_a_set_that_is_damaged(copied: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    whole = (copied / "vae_decoder.onnx").read_bytes()
    (copied / "vae_decoder.onnx").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(EngineError, match=r"vae_decoder\.onnx"):
        module._write_new(copied, repository, None)
    (copied / "vae_decoder.onnx").write_bytes(whole)
    module._write_new(copied, repository, None)
    assert (repository / "dreamactor" / "config.pbtxt").exists()
