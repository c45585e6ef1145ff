"""Two sets measured in turn: drift hits both, a tenth is seen, too few rounds tell nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dreamactor import cli
from dreamactor.benchmark import compare_sets as module
from dreamactor.benchmark.compare_sets import OPENINGS, ROUNDS, compare_sets, judge
from dreamactor.benchmark.timing import Sample, Timing
from dreamactor.engines import NETWORKS, Engines, open_engines
from dreamactor.errors import InputError
from dreamactor.presets import preset


def pair(seed: int, factor: float = 1.0, openings: int = OPENINGS, apart: float = 0.0) -> tuple[Timing, Timing]:
    """Rounds whose machine drifts by a third and back; the second of each takes `factor` as long. Two sessions of one
    file lie `apart` (natural logarithm) for as long as they are open."""
    generator = np.random.default_rng(seed)
    drift = 1 + 0.3 * np.sin(np.linspace(0, 6, openings * ROUNDS))

    def timing(times: float) -> Timing:
        opened = np.repeat(generator.lognormal(0, apart, openings), ROUNDS)
        seconds = times * opened * drift * generator.lognormal(0, 0.04, len(drift))
        return Timing(tuple(Sample(float(each), 0.0, 1.0, place // ROUNDS) for place, each in enumerate(seconds)))

    return timing(1.0), timing(factor)


def verdicts(factor: float, openings: int = OPENINGS, apart: float = 0.0) -> list[str]:
    found = [
        judge({f"engine/{n}": pair(100 * seed + n, factor, openings, apart) for n in range(7)}) for seed in range(20)
    ]
    return [row.verdict for rows in found for row in rows]


def test_equal_sets_do_not_differ_and_a_tenth_is_seen() -> None:
    assert set(verdicts(1.0)) == {"no difference"}
    assert verdicts(1.1).count("slower") >= 133  # of 140
    assert verdicts(1 / 1.1).count("faster") >= 133
    assert set(verdicts(1.1, openings=4)) == {"cannot tell"}


def test_sessions_that_differ_for_as_long_as_they_are_open_are_no_difference_of_the_sets() -> None:
    found = verdicts(1.0, apart=0.1)
    assert set(found) <= {"cannot tell", "no difference"}
    assert verdicts(1.5, apart=0.1).count("slower") >= 133


def test_a_set_against_itself(tiny_engines: Path) -> None:
    rows = compare_sets(tiny_engines, tiny_engines, openings=2, rounds=2, clips=1)

    assert [row.name for row in rows] == [*(f"engine/{name}" for name in NETWORKS), "pipeline"]
    assert all(row.ours and row.before > 0 and row.after > 0 for row in rows)
    assert {row.verdict for row in rows} == {"cannot tell"}


def test_the_command_takes_two_sets(
    tiny_engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slower(before: Path, after: Path, threshold: float) -> list[module.Difference]:
        assert before == after == tiny_engines
        return judge({"engine/denoiser": pair(1, 1.3), "pipeline": pair(2)}, threshold)

    monkeypatch.setattr(module, "compare_sets", slower)
    assert cli.main(["bench", "compare", str(tiny_engines), str(tiny_engines)]) == 1
    assert "1 slower, 0 faster, 0 cannot tell, 1 no difference" in capsys.readouterr().out
    assert cli.main(["bench", "compare", str(tiny_engines), str(tiny_engines), "--threshold", "50"]) == 0


def differing(monkeypatch: pytest.MonkeyPatch, field: str, *values: int) -> None:
    """The sets that are opened next have these values of a field of their preset, one each."""
    remaining = iter(values)

    def opened(folder: Path) -> Engines:
        engines = open_engines(folder)
        return dataclasses.replace(engines, preset=dataclasses.replace(engines.preset, **{field: next(remaining)}))

    monkeypatch.setattr(module, "open_engines", opened)


def test_sets_that_take_other_steps_are_compared(tiny_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    differing(monkeypatch, "steps", 1, 2)
    rows = compare_sets(tiny_engines, tiny_engines, openings=1, rounds=1, clips=1)
    assert rows[-1].name == "pipeline"


def test_clips_of_other_steps_are_said(tiny_engines: Path, tmp_path: Path) -> None:
    assert module.other_clips(tiny_engines, tiny_engines) == []
    longer = shutil.copytree(tiny_engines, tmp_path / "set")
    about = json.loads((longer / "manifest.json").read_text())
    about["preset"]["steps"] += 6
    (longer / "manifest.json").write_text(json.dumps(about))
    (said,) = module.other_clips(tiny_engines, longer)
    assert f"in {preset('tiny').steps} steps of" in said
    assert f"in {preset('tiny').steps + 6} steps of" in said


def test_sets_of_other_sizes_are_refused(tiny_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    differing(monkeypatch, "height", 64, 96)
    with pytest.raises(InputError, match="do not take the same inputs"):
        compare_sets(tiny_engines, tiny_engines)
