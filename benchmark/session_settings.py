"""ONNX Runtime's settings for a session, timed in turn: what `engines/onnxruntime.py` chose, and why.

`python -m dreamactor.benchmark.session_settings ENGINES [NETWORK] [ROUNDS]` prints how many times as fast a run is with
each, beside the session as it is, with the 95 % interval. Only a quiet machine tells: a pool that spins loses most
where another job wants the cores.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dreamactor.benchmark.statistics import Interval, paired_ratio
from dreamactor.benchmark.timing import Case, interleave
from dreamactor.engines import open_engines
from dreamactor.engines.onnxruntime import session_options
from dreamactor.engines.session import Array
from dreamactor.engines.trust import check_file
from dreamactor.interfaces import Size, random_inputs

SPIN, DURATION = "session.intra_op.allow_spinning", "session.intra_op.spin_duration_us"
Change = Callable[[Any], None]  # of fresh `onnxruntime.SessionOptions`


def entry(key: str, value: str) -> Change:
    return lambda options: options.add_session_config_entry(key, value)


def attribute(name: str, value: Any) -> Change:
    return lambda options: setattr(options, name, value)


def optimisation(level: str) -> Change:
    """By ONNX Runtime's name of the level; the files were rewritten before (`engines/onnxruntime_graph.py`)."""

    def change(options: Any) -> None:
        from onnxruntime import GraphOptimizationLevel

        options.graph_optimization_level = getattr(GraphOptimizationLevel, level)

    return change


CHANGES: dict[str, Change] = {
    "the same again": lambda options: None,
    "no busy waiting between operators": entry(SPIN, "0"),
    "busy waiting for 200 us": entry(DURATION, "200"),
    "busy waiting without bound": entry(DURATION, "-1"),
    "work shared out in shrinking blocks": entry("session.dynamic_block_base", "4"),
    "denormals as they are": entry("session.set_denormal_as_zero", "0"),  # but in the calling thread
    "no memory arena": attribute("enable_cpu_mem_arena", False),
    "no memory pattern": attribute("enable_mem_pattern", False),
    "one thread": attribute("intra_op_num_threads", 1),
    "no graph optimisation": optimisation("ORT_DISABLE_ALL"),
    "basic graph optimisation": optimisation("ORT_ENABLE_BASIC"),
    "extended graph optimisation, no layouts": optimisation("ORT_ENABLE_EXTENDED"),
}


def compare(engines: Path, network: str, rounds: int) -> dict[str, Interval]:
    """Speed of each setting over the session as it is (above 1: faster), from `rounds` runs of each in turn."""
    with open_engines(engines, networks=[network]) as opened:
        ours = opened.session(network)
        path = check_file(engines, opened.manifest.network(network).files[0])
        given = random_inputs(opened.preset, network, Size.of(opened.preset), seed=1)
        cases: dict[str, Case] = {"as it is": partial(ours.run, given)}
        for name, change in CHANGES.items():
            cases[name] = partial(_session(path, change).run, None, given)
        cases["inputs and outputs bound once"] = _bound(_session(path), given, ours.run(given))
        timings = interleave(cases, rounds, warmup=2)
    base = timings.pop("as it is").seconds
    return {name: paired_ratio(base, timing.seconds) for name, timing in timings.items()}


def _session(path: Path, change: Change = CHANGES["the same again"]) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # it warns of every entry that is set anew
    options = session_options()
    change(options)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _bound(session: Any, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Case:
    """A run that copies nothing: inputs and outputs stay where they are, the best that a loop could have."""
    from onnxruntime import OrtValue

    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(value))
    for name, value in outputs.items():
        binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(np.empty_like(value)))
    return partial(session.run_with_iobinding, binding)


def main(arguments: list[str]) -> int:
    network = arguments[1] if len(arguments) > 1 else "denoiser"
    rounds = int(arguments[2]) if len(arguments) > 2 else 30
    for name, speed in compare(Path(arguments[0]), network, rounds).items():
        print(f"{network}  {name:46s} {speed}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
