"""What is asked for, parsed once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from dreamactor import paths
from dreamactor.checkpoints import read_preset
from dreamactor.engines.builder import AMPERE_PLUS, SAME_COMPUTE_CAPABILITY, BuildOptions
from dreamactor.engines.gpu import local_gpu
from dreamactor.engines.set_writing import check_destination
from dreamactor.engines.shapes import Profile, Ranges, profiles
from dreamactor.engines.target import Target, parse_target
from dreamactor.errors import EngineError, InputError
from dreamactor.export.recipes import recipe
from dreamactor.interfaces import MAX_REFERENCES, NETWORKS
from dreamactor.presets import Preset, preset
from dreamactor.production.rehearsal import rehearsal

_FLAGS = {"smallest": "sizes", "largest": "sizes"}  # what options are called where it is not as here
_LEAST = {"fp8": 89, "bf16": 80}  # compute capability from which tensor cores have the type


@dataclass(frozen=True)
class Request:
    """`checkpoint` None means random weights; `samples` is how many inputs of each network are kept for calibration."""

    preset: Preset
    precision: str
    target: Target
    checkpoint: Path | None
    output: Path
    store: Path = paths.STORE
    ranges: Ranges = field(default_factory=Ranges)
    build: BuildOptions = field(default_factory=BuildOptions)
    networks: tuple[str, ...] = NETWORKS
    samples: int = 9

    def profiles(self, network: str) -> tuple[Profile, ...]:
        """What the network's engine is tuned for; TensorRT-RTX specialises itself where it runs."""
        return profiles(self.preset, network, self.ranges, fixed=self.target.runtime == "tensorrt")

    @property
    def weights(self) -> str:
        """What reports call the weights."""
        return "random" if self.checkpoint is None else str(self.checkpoint)


def make_request(
    preset_name: str,
    precision: str | None,
    target_name: str,
    checkpoint: Path | None = None,
    output: Path | None = None,
    store: Path | None = None,
    ranges: Ranges | None = None,
    build: BuildOptions | None = None,
) -> Request:
    """Raises InputError for names that do not exist, precisions that the target's GPU lacks and options that are of no
    use to its runtime, EngineError for an output that is the folder of something else, and for `cuda` where it is not.

    Without `precision` it is the target's own. A checkpoint (without one, that which ships) has sizes of its own under
    the name `preset_name`. Without `ranges` the engines take the preset's picture size; without `build` they are as
    fast as they can be.
    """
    target = parse_target(target_name)
    precision = recipe(precision or target.precision).name
    if not target.is_onnx and target.capability < _LEAST.get(precision, 0):
        raise InputError(
            f"{precision} needs SM{_LEAST[precision]} or later, and {target.name} is {target.architecture.upper()}: "
            "use fp16 or int8."
        )
    if precision == "bf16" and target.name == "cpu":
        raise InputError("ONNX Runtime has no BF16 on the CPU: use fp32 or int8 there.")
    ranges, build = ranges or Ranges(), build or BuildOptions()
    if target.is_onnx:
        _refuse_options(target, ranges, build)
    if target.name == "cuda":
        _require_cuda()
    _check_build(target, precision, build)
    source = checkpoint or paths.checkpoint(preset_name)
    chosen = read_preset(source, preset_name) if source is not None else preset(preset_name)
    return Request(
        chosen,
        precision,
        target,
        source,
        check_destination(output or paths.engine_set(preset_name, precision, target.name)),
        store or paths.STORE,
        _with_rehearsal(_checked(ranges, chosen), chosen),
        build,
    )


def _require_cuda() -> None:
    """Raises EngineError where the engines could be built, but not run: they would fail for it at the end."""
    from dreamactor.engines.onnxruntime import CUDA, available_providers

    if local_gpu() is None:
        raise EngineError(
            "Target 'cuda' is for this machine's NVIDIA GPU, and there is none (or no driver): use 'cpu'."
        )
    found = available_providers()
    if CUDA not in found:
        raise EngineError(
            f"Target 'cuda' needs onnxruntime-gpu, and the onnxruntime that is installed has {', '.join(found)}: "
            "`dreamactor doctor` says how to get the other."
        )


def _refuse_options(target: Target, ranges: Ranges, build: BuildOptions) -> None:
    """Raises InputError for what only a TensorRT engine can be given."""
    default = {**vars(Ranges()), **vars(BuildOptions())}
    given = [name for name, value in {**vars(ranges), **vars(build)}.items() if value != default[name]]
    if given:
        names = ", ".join(dict.fromkeys(_FLAGS.get(name, name.replace("_", " ")) for name in given))
        raise InputError(
            f"Target '{target.name}' is ONNX files, which take any picture size and up to {MAX_REFERENCES} references: "
            f"leave out {names}, which TensorRT engines have, or give another target."
        )


def _check_build(target: Target, precision: str, build: BuildOptions) -> None:
    """Raises InputError for plans without weights or for other cards that this target or precision cannot have."""
    level, levels = build.hardware_compatibility, (AMPERE_PLUS, SAME_COMPUTE_CAPABILITY)
    if level and level not in levels:
        raise InputError(f"There is no hardware compatibility '{level}'; choose one of {', '.join(levels)}.")
    if target.runtime == "tensorrt_rtx" and (build.strip or level):
        raise InputError(
            f"Target '{target.name}' is TensorRT-RTX, which builds for one architecture and strips no plan without a "
            "driver: leave out strip and hardware compatibility, which target 'tensorrt' has."
        )
    if build.attention == "plugin" and target.runtime == "tensorrt_rtx":
        raise InputError(f"Target '{target.name}' is TensorRT-RTX, which has no plugins: leave out attention plugin.")
    if build.attention == "plugin" and precision in ("fp32", "fp8"):
        raise InputError(
            f"Our attention kernels take 16 bits, and {precision} sets have TensorRT's own attention: leave out "
            "attention plugin, or give another precision."
        )
    if level != AMPERE_PLUS:
        return
    if build.attention == "plugin":
        raise InputError(
            f"The attention plugin is compiled for {target.architecture} alone, and {level} engines are for SM80 and "
            "later: leave out one of the two."
        )
    least = _LEAST.get(precision, 0)
    if least > 80:
        raise InputError(
            f"{level} engines run from SM80 on, and {precision} needs SM{least}: leave out one of the two."
        )
    if target.capability < 80:
        raise InputError(f"{level} engines are built on SM80 or later, and this GPU is {target.architecture}.")


def _with_rehearsal(ranges: Ranges, preset: Preset) -> Ranges:
    """`ranges` down to the size that a large preset is compared with FP32 at."""
    small = rehearsal(preset)
    if small == preset:
        return ranges
    height, width = ranges.smallest or (preset.height, preset.width)
    return replace(ranges, smallest=(min(height, small.height), min(width, small.width)))


def _checked(ranges: Ranges, preset: Preset) -> Ranges:
    """Raises InputError for sizes that no engine takes."""
    own = (preset.height, preset.width)
    low, high = ranges.smallest or own, ranges.largest or own
    if not 1 <= ranges.references <= MAX_REFERENCES:
        raise InputError(f"An engine takes 1 to {MAX_REFERENCES} references, not {ranges.references}.")
    if any(side % 16 or side < 32 for side in (*low, *high)):
        raise InputError(f"Sizes are multiples of 16 from 32 on, not {_text(low)} to {_text(high)}.")
    if not all(a <= side <= b for a, side, b in zip(low, own, high, strict=True)):
        raise InputError(f"{_text(low)} to {_text(high)} leaves out {preset.name}'s own {_text(own)} (height x width).")
    return ranges


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
