"""What is asked for, parsed once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dreamactor import paths
from dreamactor.engines.builder import BuildOptions
from dreamactor.engines.manifest import MAX_REFERENCES, NETWORKS
from dreamactor.engines.sets import check_destination
from dreamactor.engines.shapes import Ranges
from dreamactor.engines.target import Target, parse_target
from dreamactor.errors import InputError
from dreamactor.presets import Preset, preset

_LEAST = {"fp8": 89, "bf16": 80}  # compute capability from which tensor cores have the type
WEIGHTS = "model.safetensors"
STORE = paths.ENGINES / "store"


@dataclass(frozen=True)
class Request:
    """`checkpoint` None means random weights; `samples` is how many inputs of each network are kept for calibration."""

    preset: Preset
    precision: str
    target: Target
    checkpoint: Path | None
    output: Path
    store: Path = STORE
    ranges: Ranges = field(default_factory=Ranges)
    build: BuildOptions = field(default_factory=BuildOptions)
    networks: tuple[str, ...] = NETWORKS
    samples: int = 5


def make_request(
    preset_name: str,
    precision: str,
    target_name: str,
    checkpoint: Path | None = None,
    output: Path | None = None,
    store: Path | None = None,
    ranges: Ranges | None = None,
    build: BuildOptions | None = None,
) -> Request:
    """Raises InputError for names that do not exist and precisions that the target's GPU lacks, EngineError for an
    output that is the folder of something else.

    Without `ranges` the engines take the preset's picture size; without `build` they are as fast as they can be.
    """
    target = parse_target(target_name)
    if target.architecture.startswith("sm") and int(target.architecture[2:]) < _LEAST.get(precision, 0):
        raise InputError(
            f"{precision} needs SM{_LEAST[precision]} or later, and {target.name} is {target.architecture.upper()}: "
            "use fp16 or int8."
        )
    if precision == "bf16" and target.is_onnx and target.name == "cpu":
        raise InputError("ONNX Runtime has no BF16 on the CPU: use fp32 or int8 there.")
    chosen = preset(preset_name)
    if checkpoint is not None and not (checkpoint / WEIGHTS).is_file():
        raise InputError(f"{checkpoint} is not the folder of a checkpoint: it has no {WEIGHTS}.")
    return Request(
        chosen,
        precision,
        target,
        checkpoint or paths.checkpoint(preset_name),
        check_destination(output or paths.engine_set(preset_name, precision, target.name)),
        store or STORE,
        _checked(ranges or Ranges(), chosen),
        build or BuildOptions(),
    )


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
