"""Solvers, segments and options: arithmetic that can be checked by hand."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest

from dreamactor.errors import InputError
from dreamactor.pipeline.options import Options
from dreamactor.pipeline.segments import plan, total_latents
from dreamactor.pipeline.solver import schedule, timesteps
from dreamactor.presets import preset


def solve(solver: str, steps: int, shift: float = 1.0) -> float:
    """Integrates dx/dt = x from t=1 (x=e) to t=0; exact answer 1."""
    x, previous = math.e, float("nan")
    for step in schedule(solver, steps, shift):
        a, b, c = step.coefficients
        velocity = x
        x = a * x + b * velocity + (c * previous if c else 0.0)
        previous = velocity
    return x


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("multistep", 2)])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_solvers_converge_at_their_order(solver: str, order: int, shift: float) -> None:
    errors = [abs(solve(solver, steps, shift) - 1) for steps in (32, 64, 128)]
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert min(rates) > order - 0.2


def test_timesteps_run_from_noise_to_data() -> None:
    times = timesteps(8, 5.0)
    assert times[0] == 1
    assert times[-1] == 0
    assert np.all(np.diff(times) < 0)
    assert times[4] > 0.8  # shifted towards noise


@pytest.mark.parametrize("frames", [2, 5, 25, 26, 29, 49, 50, 73, 200])
@pytest.mark.parametrize("size", [3, 7, 19])
def test_segments_cover_every_latent_once(frames: int, size: int) -> None:
    segments = plan(frames, size)
    covered = [s.start + i for s in segments for i in range(s.carried, s.latents)]
    assert covered == list(range(total_latents(frames)))
    assert all(s.latents <= size for s in segments)
    for before, after in itertools.pairwise(segments):
        assert after.start == before.start + before.latents - 1  # the last latent starts the next
    last = segments[-1]
    assert last.first_frame + last.frames >= frames


def test_options_defaults_come_from_the_preset() -> None:
    options = Options.from_json(b"")
    assert options.steps_for(preset("puppet")) == preset("puppet").steps
    assert [options.solver_for(preset(name)) for name in ("m1", "puppet")] == ["multistep", "euler"]
    assert Options(solver="euler").solver_for(preset("m1")) == "euler"
    assert options.guidance_for(preset("m1")) == preset("m1").guidance_scale == 2.5
    assert Options.from_json('{"guidance_scale": 1}').guidance_for(preset("m1")) == 1.0
    assert Options.from_json(Options(seed=4, scale="half").to_json()) == Options(seed=4, scale="half")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "not valid JSON"), ("[1]", "must be a JSON object"), ('{"stepz": 3}', "Unknown option 'stepz'"),
        ('{"steps": 0}', "1 to 200"), ('{"steps": true}', "whole number"), ('{"steps": 2.5}', "whole number"),
        ('{"seed": -1}', "seed"), ('{"seed": null}', "seed"), ('{"scale": "big"}', "face, half, full"),
        ('{"guidance_scale": "x"}', "0 to 100"), ('{"solver": "rk4"}', "euler, multistep"), ('{"max_frames": 1}', "2"),
        ('{"scale": true}', "not true"), ("null", "not null"), ('{"max_frames": "x"}', 'of at least 2, not "x"'),
        ('{"guidance_scale": NaN}', "0 to 100"), (b"\xff\xfe", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"), ('{"seed": ' + "1" * 5000 + "}", "not valid JSON"),
    ],
)  # fmt: skip
def test_bad_options_are_named(text: str | bytes, part: str) -> None:
    with pytest.raises(InputError, match=part):
        Options.from_json(text)


@pytest.mark.parametrize(
    "values", [{"x" * 100_000: 1}, {"scale": "x" * 100_000}, {f"x{n}": 1 for n in range(10_000)}, {"\ud800": 1}]
)
def test_what_a_stranger_sent_is_shown_shortened_and_as_text(values: dict[str, Any]) -> None:
    with pytest.raises(InputError) as refused:
        Options.from_json(json.dumps(values))
    assert len(str(refused.value).encode()) < 250
