"""Real TensorRT-RTX builds on whatever machine this is, and everything that can go wrong with one."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dreamactor.cli import main
from dreamactor.engines import NETWORKS
from dreamactor.engines.builder import BuildOptions, BuildReport, BuildRequest, _is_fused, build_engine, fused_kernels
from dreamactor.engines.gpu import Gpu
from dreamactor.engines.onnxruntime import CUDA, available_providers
from dreamactor.engines.runtimes import load_tensorrt
from dreamactor.engines.shapes import Ranges, profile_shapes, profiles
from dreamactor.engines.target import Target, parse_target
from dreamactor.errors import EngineError, InputError, MissingDependency
from dreamactor.interfaces import Size, interface
from dreamactor.presets import DECODER_CONTEXT, POSE_CONTEXT, preset
from dreamactor.production.request import make_request

TINY = preset("tiny")
SM89 = parse_target("sm89")


def rtx_installed() -> bool:
    try:
        load_tensorrt("tensorrt_rtx")
    except MissingDependency:
        return False
    return True


needs_rtx = pytest.mark.skipif(not rtx_installed(), reason="tensorrt-rtx-cu13-libs and -bindings are not installed")


def wanted(model: Path, target: Target = SM89, ranges: Ranges | None = None, **more: object) -> BuildRequest:
    """The VAE's encoder in TensorRT-RTX, whatever `model` is."""
    found = profiles(TINY, "vae_encoder", ranges, fixed=False)
    shapes = [profile_shapes(TINY, "vae_encoder", profile) for profile in found]
    return BuildRequest(model, target, shapes, **more)  # type: ignore[arg-type]


def build(model: Path, output: Path, target: Target = SM89, **more: object) -> BuildReport:
    return build_engine(wanted(model, target, **more), output)  # type: ignore[arg-type]


def video_model(path: Path, operator: str = "Relu", domain: str = "", inputs: str = "video", name: str = "") -> Path:
    """A network with the encoder's input that applies one operator, in a node called `name`, to it as float."""
    value = helper.make_tensor_value_info(inputs, TensorProto.UINT8, [1, 3, "t", "h", "w"])
    nodes = [
        helper.make_node("Cast", [inputs], ["f"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["f"], ["latent"], name, domain=domain),
    ]
    output = helper.make_tensor_value_info("latent", TensorProto.FLOAT, [1, 3, "t", "h", "w"])
    graph = helper.make_graph(nodes, "g", [value], [output])
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@needs_rtx
def test_build_writes_a_whole_engine_and_says_what_is_in_it(tmp_path: Path) -> None:
    heard: list[str] = []
    model = video_model(tmp_path / "m.onnx")
    report = build_engine(wanted(model), tmp_path / "e/m.engine", lambda phase, step, steps: heard.append(phase))
    content = (tmp_path / "e/m.engine").read_bytes()
    assert content.startswith(b"vtrt")  # TensorRT-RTX's mark
    assert len(content) == report.bytes
    assert report.layers["ACTIVATION"] == 1
    assert [spec.name for spec in report.inputs] == ["video"]
    assert report.inputs[0].dtype == "uint8"
    assert report.version == load_tensorrt("tensorrt_rtx").__version__
    assert heard[0] == "parse"
    assert len(set(heard)) > 1  # the builder's own phases follow
    assert [path.name for path in (tmp_path / "e").iterdir()] == ["m.engine"]


@needs_rtx
def test_weight_streaming_builds_anywhere(tmp_path: Path) -> None:
    model = video_model(tmp_path / "m.onnx")
    assert build(model, tmp_path / "m.engine", options=BuildOptions(weight_streaming=True)).bytes > 1000


@pytest.mark.parametrize("option", ["--refit", "--version-compatible"])
def test_no_option_makes_an_engine_that_no_session_opens(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--strip` is what makes a plan take weights, and `trust` demands the version of the build."""
    with pytest.raises(SystemExit):
        main(["build", option])
    assert f"unrecognized arguments: {option}" in capsys.readouterr().err


@needs_rtx
def test_bad_models_are_refused_with_the_reason_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "corrupt.onnx").write_bytes(b"\x08\x0a\x12garbage")
    (tmp_path / "empty.onnx").write_bytes(b"")
    video_model(tmp_path / "unknown.onnx", "Frobnicate", "nowhere")
    video_model(tmp_path / "unsupported.onnx", "Bernoulli", name="draws.7")
    video_model(tmp_path / "other.onnx", inputs="picture")
    weight = numpy_helper.from_array(np.ones((3, 1, 1), np.float32), "w")
    external = onnx.load(video_model(tmp_path / "external.onnx", "Neg"))
    external.graph.node.append(helper.make_node("Add", ["latent", "w"], ["sum"]))
    external.graph.initializer.append(weight)
    onnx.save(external, tmp_path / "external.onnx", save_as_external_data=True, location="lost.data", size_threshold=0)
    (tmp_path / "lost.data").unlink()
    reasons = {
        "corrupt": "not an ONNX model, or it is cut short", "empty": "its ONNX is empty: there are no inputs",
        "unknown": r"operator Frobnicate of node number 1 is refused \(INVALID_NODE: ",
        "unsupported": r"operator Bernoulli of node draws\.7 is refused \(UNSUPPORTED_NODE: ",
        "other": "no input 'video'; its inputs are picture",
        "external": r"external\.onnx has weights in lost\.data, missing from ", "absent": r"no file .*/absent\.onnx",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(EngineError, match=f"{name} cannot be built for sm89: .*{reason}"):
            build(tmp_path / f"{name}.onnx", tmp_path / "out/m.engine")
    assert list((tmp_path / "out").iterdir()) == []


@needs_rtx
def test_a_function_that_is_called_twice_is_nothing_to_warn_of(tmp_path: Path) -> None:
    """The parser says of each of its nodes that it "already exists"."""
    model = onnx.load(video_model(tmp_path / "m.onnx"))
    opsets = [helper.make_opsetid("", 20)]
    body = [helper.make_node("Neg", ["x"], ["y"], "inside")]
    model.functions.append(helper.make_function("ours", "Twice", ["x"], ["y"], body, opsets))
    model.opset_import.append(helper.make_opsetid("ours", 1))
    last = model.graph.node.pop()
    for inputs, outputs in (("f", "g"), ("g", "h")):
        model.graph.node.append(helper.make_node("Twice", [inputs], [outputs], domain="ours"))
    last.input[0] = "h"
    model.graph.node.append(last)
    onnx.save(model, tmp_path / "m.onnx")
    report = build(tmp_path / "m.onnx", tmp_path / "m.engine")
    assert report.layers["UNARY"] == 2
    assert report.warnings == ()


@needs_rtx
def test_missing_layers_and_missing_fusion_are_refused(tmp_path: Path) -> None:
    model = video_model(tmp_path / "m.onnx")
    with pytest.raises(EngineError, match=r"should be at least 2 PLUGIN_V3 layers, and there are 0 PLUGIN_V3"):
        build(model, tmp_path / "out/m.engine", expected_layers={"PLUGIN_V3": 2})
    with pytest.raises(EngineError, match=r"is refused: no fused fp8 attention is named in it \(found: none\)"):
        build(model, tmp_path / "out/m.engine", fused_attention="fp8")
    with pytest.raises(EngineError, match="TensorRT-RTX has no plugins"):
        build(model, tmp_path / "out/m.engine", options=BuildOptions(attention="plugin"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("kernels", "dtype", "runtime", "expected"),
    [
        (("Ada_qmma_e4m3_fp32_traits", "_gemm_mha_v2"), "fp8", "tensorrt_rtx", True),
        (("Ampere_hmma_fp16_traits", "_gemm_mha_v2"), "fp8", "tensorrt_rtx", False),
        (("Ampere_hmma_fp16_traits", "_gemm_mha_v2"), "fp16", "tensorrt_rtx", True),
        (("_gemm_mha_v2",), "fp8", "tensorrt", True),  # which does not tell its type there
        (("fmha_v2_flash_attention_fp16_64_64_S_qkv_128_sm89_kernel",), "fp8", "tensorrt", False),
        (("fmha_v2_flash_attention_e4m3_fp32_64_64_S_qkv_128_sm89_kernel",), "fp8", "tensorrt", True),
        ((), "fp16", "tensorrt", False),
    ],
)
def test_a_fused_kernel_of_another_type_is_not_the_one_asked_for(
    kernels: tuple[str, ...], dtype: str, runtime: str, expected: bool
) -> None:
    assert _is_fused(kernels, dtype, Target("t", runtime, "sm89")) is expected


def test_fused_kernels_are_found_by_their_names(tmp_path: Path) -> None:
    names = b"\0_gemm_mha_v2_0x1f\0x::fmha::Ada_qmma_e4m3_fp32_traits\0fmha_v2_flash_attention_fp16_64_sm89\0gemm_fp8\0"
    (tmp_path / "plan").write_bytes(names)
    assert fused_kernels(tmp_path / "plan") == (
        "Ada_qmma_e4m3_fp32_traits", "_gemm_mha_v2", "fmha_v2_flash_attention_fp16_64_sm89"
    )  # fmt: skip


def test_missing_runtime_is_said() -> None:
    with pytest.raises(EngineError, match="choose one of onnxruntime, tensorrt, tensorrt_rtx"):
        load_tensorrt("openvino")


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_missing_tensorrt_says_how_to_get_it() -> None:
    with pytest.raises(MissingDependency, match="tensorrt is not installed: pip install"):
        load_tensorrt("tensorrt")


@pytest.mark.parametrize("network", NETWORKS)
def test_profiles_hold_everything_the_pipeline_sends(network: str) -> None:
    found, ports = profiles(TINY, network), interface(TINY, network)
    assert all(profile.minimum == profile.maximum for profile in found[:-1])
    whole = TINY.latent_frames
    most = whole + DECODER_CONTEXT - 1 if network == "vae_decoder" else whole
    span = found[-1]
    for latents in range(1, most + 1):
        for references in (1, 4):
            for batch in (1, 2):
                shapes = ports.input_shapes(Size(latents, TINY.height, TINY.width, references, batch))
                low, high = ports.input_shapes(span.minimum), ports.input_shapes(span.maximum)
                for name, shape in shapes.items():
                    assert all(a <= size <= b for a, size, b in zip(low[name], shape, high[name], strict=True)), name


@pytest.mark.parametrize(
    ("network", "latents"),
    [
        ("vae_decoder", [TINY.latent_frames, TINY.latent_frames + DECODER_CONTEXT - 1]),
        ("pose_encoder", [TINY.latent_frames, TINY.latent_frames + POSE_CONTEXT, 1]),
        ("vae_encoder", [1]),
        ("face_motion_encoder", [TINY.latent_frames]),
    ],
)
def test_profiles_are_tuned_for_what_the_pipeline_sends(network: str, latents: list[int]) -> None:
    *fixed, span = profiles(TINY, network)
    assert [profile.optimum.latents for profile in fixed] == latents
    assert span.maximum.latents >= max(latents)


@pytest.mark.parametrize(("guidance", "rows"), [(2.5, 2), (1.0, 1)])
def test_a_step_is_tuned_for_the_preset_s_guidance(guidance: float, rows: int) -> None:
    first, second, span = profiles(replace(TINY, guidance_scale=guidance), "denoiser")
    assert (first.optimum.batch, second.optimum.batch) == (rows, 3 - rows)
    assert (span.minimum.batch, span.optimum.batch, span.maximum.batch) == (1, rows, 2)


def test_ranges_widen_the_last_profile_only() -> None:
    plain = profiles(TINY, "denoiser")
    wide = profiles(TINY, "denoiser", Ranges(references=6, smallest=(32, 32), largest=(128, 96)))
    assert wide[:-1] == plain[:-1]
    assert (wide[-1].maximum.height, wide[-1].maximum.width, wide[-1].maximum.references) == (128, 96, 6)
    assert (wide[-1].minimum.height, wide[-1].minimum.width) == (32, 32)
    with pytest.raises(InputError, match="no network 'vae'"):
        profiles(TINY, "vae")


@needs_rtx
def test_ranges_reach_the_builder(tmp_path: Path) -> None:
    """A network takes pictures of several sizes; one whose graph has a fixed height is refused for them."""
    wide = Ranges(smallest=(32, 48), largest=(128, 96))
    model = video_model(tmp_path / "m.onnx")
    report = build(model, tmp_path / "wide.engine", ranges=wide)
    assert report.inputs[0].shape == (1, 3, -1, -1, -1)
    fixed = onnx.load(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 64
    onnx.save(fixed, tmp_path / "m.onnx")
    build(model, tmp_path / "m.engine")
    with pytest.raises(EngineError, match="profile"):
        build(model, tmp_path / "m2.engine", ranges=wide)


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        (Ranges(references=9), "1 to 8 references, not 9"),
        (Ranges(smallest=(60, 64)), "multiples of 16"),
        (Ranges(smallest=(96, 96), largest=(128, 128)), "leaves out tiny's own 64x64"),
    ],
)
def test_ranges_that_no_engine_takes_are_refused(ranges: Ranges, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        make_request("tiny", "fp16", "sm89", ranges=ranges)


def test_plans_without_weights_and_for_other_cards_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("dreamactor.build.build_set", lambda *values, **named: asked.append(named["options"]))
    assert main(["build", "--preset", "tiny"]) == 0
    assert main(["build", "--preset", "tiny", "--strip", "--hardware-compatibility", "ampere-plus"]) == 0
    assert asked == [BuildOptions(), BuildOptions(strip=True, hardware_compatibility="ampere-plus")]


def test_ranges_are_parsed_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("dreamactor.build.build_set", lambda *values, **named: asked.append(named["ranges"]))
    assert main(["build", "--preset", "tiny", "--sizes", "32x48:128x96", "--references", "6"]) == 0
    assert asked == [Ranges(6, (32, 48), (128, 96))]


@pytest.mark.skipif(find_spec("tensorrt") is not None or CUDA in available_providers(), reason="a runtime for GPUs")
def test_auto_takes_no_gpu_that_nothing_installed_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamactor.engines.gpu.local_gpu", lambda: Gpu("L4", "sm89", 24 << 30, "13.0"))
    assert parse_target("auto") == parse_target("cpu")


@pytest.mark.parametrize(("architecture", "driver"), [("sm89", "12.8"), ("sm70", "13.0")])
def test_a_gpu_that_runs_no_engine_is_none_for_auto_and_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, architecture: str, driver: str
) -> None:
    for module in ("gpu", "target"):
        monkeypatch.setattr(
            f"dreamactor.engines.{module}.local_gpu", lambda: Gpu("A Card", architecture, 2**34, driver)
        )
    monkeypatch.setattr("dreamactor.engines.onnxruntime.available_providers", lambda: (CUDA,))
    assert parse_target("auto").name == "cpu"
    for name in ("cuda", "tensorrt", "rtx"):
        with pytest.raises(
            EngineError, match=f"Target '{name}' cannot be built here. The .*(CUDA 12.8|sm70); TensorRT 11"
        ):
            parse_target(name)


@pytest.mark.parametrize(
    ("target", "level", "architecture", "model"),
    [
        ("tensorrt", "", "sm89", "NVIDIA Nothing 1"),
        ("tensorrt", "same-compute-capability", "sm89", ""),
        ("tensorrt", "ampere-plus", "sm80+", ""),
        ("rtx", "", "sm89", ""),
        ("cpu", "", "any", ""),
    ],
)
def test_only_tensorrt_s_engines_are_for_one_model_of_card(
    monkeypatch: pytest.MonkeyPatch, target: str, level: str, architecture: str, model: str
) -> None:
    card = Gpu("NVIDIA Nothing 1", "sm89", 2**34, "13.0")
    monkeypatch.setattr("dreamactor.engines.target.local_gpu", lambda: card)
    options, found = BuildOptions(hardware_compatibility=level), parse_target(target)
    assert (options.architecture(found), options.card(found)) == (architecture, model)


def test_targets() -> None:
    assert parse_target("sm120") == Target("sm120", "tensorrt_rtx", "sm120")
    assert (parse_target("sm120").capability, parse_target("cpu").capability) == (120, 0)
    assert parse_target("cpu").is_onnx
    with pytest.raises(InputError, match="no target 'sm42'; choose one of auto, cpu"):
        parse_target("sm42")
