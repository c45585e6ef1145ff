"""What is asked for, parsed once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dreamactor import paths
from dreamactor.engines.builder import BuildOptions
from dreamactor.engines.manifest import NETWORKS
from dreamactor.engines.shapes import Ranges
from dreamactor.engines.target import Target, parse_target
from dreamactor.errors import InputError
from dreamactor.presets import Preset, preset

_LEAST = {"fp8": 89, "bf16": 80}  # compute capability from which tensor cores have the type
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
    samples: int = 4


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
    """Raises InputError for names that do not exist and precisions that the target's GPU lacks.

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
    return Request(
        preset(preset_name),
        precision,
        target,
        checkpoint or paths.checkpoint(preset_name),
        output or paths.engine_set(preset_name, precision, target.name),
        store or STORE,
        ranges or Ranges(),
        build or BuildOptions(),
    )
