"""Two reports of one build differ in nothing; a tenth slower is caught; a busier machine is not blamed on the build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamactor import cli
from dreamactor.benchmark import schema
from dreamactor.benchmark.compare import compare, finest, read_report, warnings
from dreamactor.benchmark.sections import MOMENTS
from dreamactor.benchmark.timing import Sample, Timing
from dreamactor.errors import InputError

BASES = {"engine/denoiser/fp32": 0.1, "pipeline/onnxruntime": 2.0}


def report(seed: int, factor: float = 1.0, machine: float = 1.0, drift: float = 0.0) -> dict[str, Any]:
    """Noisy samples, of engines and stages at seven moments; `factor` is the build's slowness, `machine` the run's,
    `drift` how far the run's moments lie apart."""
    generator = np.random.default_rng(seed)
    found = schema.empty()
    found["environment"] = {"processor": "test", "cores": 2, "gpu": None}
    found["settings"] = {"preset": "tiny"}
    moments = generator.lognormal(0, drift, MOMENTS + 1)
    for name, base in BASES.items():
        often = name.startswith(("engine/", "step/", "stage/"))
        blocks = [*range(MOMENTS)] if often else [MOMENTS]
        samples = tuple(
            Sample(
                float(base * factor * machine * moments[blocks[index % len(blocks)]] * noise),
                0.0,
                float(0.001 * machine * other),
                blocks[index % len(blocks)],
            )
            for index, (noise, other) in enumerate(generator.lognormal(0, 0.02, (3 * MOMENTS, 2)))
        )
        found["timings"][name] = Timing(samples).to_dict()
    return found


def verdicts(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {row.verdict for row in compare(before, after)}


def test_same_build_no_difference() -> None:
    for seed in range(8):
        assert verdicts(report(seed), report(seed + 100)) == {"no difference"}


def test_a_tenth_slower_and_a_tenth_faster_are_seen() -> None:
    for seed in range(4):
        assert verdicts(report(seed), report(seed + 100, factor=1.1)) == {"slower"}
        assert verdicts(report(seed, factor=1.1), report(seed + 100)) == {"faster"}


def test_a_busy_machine_is_not_a_slow_build() -> None:
    assert verdicts(report(1), report(2, machine=1.4)) == {"no difference"}
    assert verdicts(report(1), report(2, factor=1.1, machine=1.05)) == {"slower"}


def test_runs_that_drift_are_said_to_tell_nothing() -> None:
    equal = [
        row.verdict for seed in range(20) for row in compare(report(seed, drift=0.2), report(50 + seed, drift=0.2))
    ]
    assert equal.count("cannot tell") >= 0.9 * len(equal)


@pytest.mark.parametrize("drift", [0.03, 0.05, 0.08])
def test_moments_that_lie_apart_are_no_slower_build(drift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a report is measured at one moment each, whose drift only the engines' blocks show."""
    monkeypatch.setitem(globals(), "BASES", BASES | {"service/triton": 3.0, "stage/denoise": 1.0})
    pairs = [verdicts(report(seed, drift=drift), report(50 + seed, drift=drift)) for seed in range(30)]
    assert sum(bool({"slower", "faster"} & found) for found in pairs) <= 3


def test_a_tenth_is_seen_in_a_whole_report_whose_moments_lie_four_percent_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As those of a run on a shared machine did, with as many measurements as it had."""
    names = [f"engine/{network}/{kind}" for network in "abcde" for kind in ("fp32", "int8")]
    names += [*map("stage/{}".format, "abcde"), "step/denoiser", *map("service/{}".format, range(12))]
    monkeypatch.setitem(globals(), "BASES", dict.fromkeys(names, 1.0))
    seen, wrong, steady = 0, 0, 0
    for seed in range(20):
        before, same = report(seed, drift=0.04), report(100 + seed, drift=0.04)
        wrong += bool({"slower", "faster"} & verdicts(before, same))
        steady += "no difference" in verdicts(before, same)
        seen += "slower" in verdicts(before, report(200 + seed, factor=1.1, drift=0.04))
    assert (wrong <= 1, steady >= 16, seen >= 16) == (True, True, True), (wrong, steady, seen)


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_moments_that_others_made_slower_do_not_hide_a_tenth(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of a run's seven moments are by 8 to 30 % slower, in each of the two at others."""
    monkeypatch.setitem(globals(), "BASES", dict.fromkeys(("engine/a", "engine/b", "stage/c", "step/denoiser"), 1.0))
    for seed in range(8):
        pair = report(seed), report(50 + seed, factor=factor)
        for each in pair:
            slow = np.random.default_rng([seed, each is pair[1]]).permutation([0.08, 0.2, 0.3, 0, 0, 0, 0])
            for timing in each["timings"].values():
                moments = zip(timing["samples"], timing["block"], strict=True)
                timing["samples"] = [seconds * (1 + slow[block]) for seconds, block in moments]
        assert verdicts(*pair) == {"no difference" if factor == 1 else "slower"}


def test_reports_of_a_shared_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four real runs of two minutes: every session of the second and fourth took a tenth longer, on purpose."""
    same, slow, again, slower = json.loads((Path(__file__).parent / "reports.json").read_text())
    for a, b in ((same, again), (slow, slower)):
        assert verdicts(a, b) <= {"no difference", "cannot tell", "(PyTorch)"}
    for a, b in ((same, slow), (again, slow), (same, slower), (again, slower)):
        found = {row.name: row.verdict for row in compare(a, b) if row.ours}
        assert found["engine/denoiser/fp32"] == "slower"
        assert list(found.values()).count("slower") >= 5
        assert "faster" not in found.values()
        back = [row.verdict for row in compare(b, a) if row.ours]
        assert back.count("faster") >= 5
    assert run(tmp_path, same, again) == 0
    assert run(tmp_path, again, slow) == 1
    assert "slower         engine/denoiser/fp32" in capsys.readouterr().out


def test_whole_clips_are_compared_beside_pytorchs_of_the_same_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("pipeline/onnxruntime", "pipeline/eager", "pipeline/compile")
    monkeypatch.setitem(globals(), "BASES", dict.fromkeys(names, 1.0))

    def seen(before: dict[str, Any], after: dict[str, Any]) -> str:
        (row,) = (row for row in compare(before, after) if row.ours)
        return row.verdict

    def ours_slower(found: dict[str, Any]) -> dict[str, Any]:
        found["timings"][names[0]]["samples"] = [1.1 * x for x in found["timings"][names[0]]["samples"]]
        return found

    def scaled(found: dict[str, Any], by: float) -> dict[str, Any]:
        for timing in found["timings"].values():
            timing["samples"] = [by * x for x in timing["samples"]]
        return found

    assert seen(report(1), report(2)) == "no difference"
    assert seen(report(1), scaled(report(2), 1.3)) == "no difference"  # at a slow moment, all of them
    assert seen(report(1), ours_slower(report(2))) == "slower"
    assert seen(ours_slower(report(1)), report(2)) == "faster"
    busy = report(1)  # which PyTorch suffers from more
    for name in names[1:]:
        busy["timings"][name]["samples"] = [1.4 * x for x in busy["timings"][name]["samples"]]
    assert seen(busy, report(2)) == "no difference"
    other = ours_slower(report(2))
    other["environment"] = {**other["environment"], "packages": {"torch": "2.99"}}
    assert seen(report(1), other) == "cannot tell"  # another PyTorch is no yardstick


def test_networks_in_turn_with_pytorch_are_left_to_the_engines_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "BASES", BASES | {"peer/denoiser/onnxruntime": 1.0, "peer/denoiser/eager": 1.0})
    names = {row.name for row in compare(report(1), report(2))}
    assert names == {*BASES} - {"peer/denoiser/onnxruntime"}


def test_what_a_gpu_timed_of_a_network_is_of_several_moments_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "BASES", BASES | {"engine/x": 1.0, "device/x": 1.0})
    found = []
    for seed in (1, 2):
        made = report(seed, drift=0.05)
        made["timings"]["device/x"] = made["timings"]["engine/x"]
        made["settings"]["clips_by"] = f"engines of run {seed}"
        found.append(made)
    rows = {row.name: row for row in compare(*found)}
    assert "pipeline/onnxruntime" not in rows
    assert rows["device/x"].ratio == rows["engine/x"].ratio


def test_without_engines_nothing_is_known_of_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "BASES", {"pipeline/onnxruntime": 2.0})
    assert verdicts(report(1), report(2, factor=1.3)) == {"cannot tell"}


def test_rows_that_are_not_judged_do_not_widen_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = compare(report(1), report(2))
    theirs = {f"peer/{number}/eager": 1.0 for number in range(40)}
    monkeypatch.setitem(globals(), "BASES", BASES | theirs)
    beside = compare(report(1), report(2))
    assert [row.ratio for row in beside[: len(alone)]] == [row.ratio for row in alone]


def test_what_cannot_be_compared_is_named(
    tmp_path: Path, tiny_engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(report(1)))
    for pair, said in (
        ((tiny_engines, tmp_path / "nope"), f"There is no {tmp_path}/nope"),
        ((path, tiny_engines), f"{tiny_engines} is an engine set and {path} is none"),
    ):
        assert cli.main(["bench", "compare", *map(str, pair)]) == 2
        assert said in capsys.readouterr().err


def test_the_command_ends_with_one_past_the_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in ("a.json", "b.json", "slow.json")]
    for path, content in zip(paths, (report(1), report(2), report(3, factor=1.1)), strict=True):
        path.write_text(json.dumps(content))
    a, b, slow = map(str, paths)

    assert cli.main(["bench", "compare", a, b]) == 0
    assert "2 no difference" in capsys.readouterr().out
    assert cli.main(["bench", "compare", a, slow]) == 1
    assert "slower         pipeline/onnxruntime" in capsys.readouterr().out
    assert cli.main(["bench", "compare", a, slow, "--threshold", "20"]) == 0
    for nothing in ("nan", "-5", "0", "x"):  # with which no change would ever be too much
        with pytest.raises(SystemExit, match="2"):
            cli.main(["bench", "compare", a, slow, "--threshold", nothing])
    capsys.readouterr()
    assert cli.main(["bench", "--quick", "--precision", "int8", "compare", a, slow]) == 2
    assert "no option but --threshold: leave --precision, --quick out" in capsys.readouterr().err


def test_a_report_is_named_by_its_folder_too_and_the_same_one_twice_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / name for name in ("old", "new")]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        (folder / "report.json").write_text(json.dumps(report(seed)))
    old, new = map(str, folders)
    assert cli.main(["bench", "compare", old, new]) == 0
    assert "one and the same" not in capsys.readouterr().out
    assert cli.main(["bench", "compare", old, f"{old}/report.json"]) == 0
    assert "note: The two are one and the same report." in capsys.readouterr().out
    assert cli.main(["bench", "compare", old, str(tmp_path)]) == 2
    assert f"{tmp_path}/report.json cannot be read" in capsys.readouterr().err


def test_it_says_how_fine_it_sees_and_when_the_machine_was_busy() -> None:
    quiet, other, busy = report(1), report(2), report(3)
    for timing in (*quiet["timings"].values(), *other["timings"].values()):
        timing["processor"] = [1.9 * seconds for seconds in timing["samples"]]
    for timing in busy["timings"].values():
        timing["processor"] = [0.5 * seconds for seconds in timing["samples"]]
    assert warnings(quiet, other) == []
    assert warnings(quiet, busy) == ["The machine was busy in the second run: its engines had 25% of the cores."]
    assert 0.002 < finest(compare(quiet, other)) < 0.05


def run(tmp_path: Path, before: dict[str, Any], after: dict[str, Any]) -> int:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, content in zip(paths, (before, after), strict=True):
        path.write_text(json.dumps(content))
    return cli.main(["bench", "compare", *map(str, paths)])


def test_a_slower_pytorch_is_shown_and_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = dict.fromkeys(("pipeline/eager", "peer/denoiser/compile", "networks/eager-cuda"), 1.0)
    monkeypatch.setitem(globals(), "BASES", rows)
    theirs, slower = report(1), report(2, factor=1.2)
    monkeypatch.undo()
    before, after = report(3), report(4)
    before["timings"] |= theirs["timings"]
    after["timings"] |= slower["timings"]

    assert run(tmp_path, before, after) == 0

    printed = capsys.readouterr().out
    assert printed.count("(PyTorch)") == 3
    assert "0 slower, 0 faster, 0 cannot tell, 2 no difference" in printed


def test_what_the_second_run_lacks_is_named_and_what_broke_in_it_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = report(1), report(2)
    del after["timings"]["pipeline/onnxruntime"]
    assert run(tmp_path, before, after) == 0
    assert "The second run did not measure pipeline/onnxruntime." in capsys.readouterr().out

    after["failed"] = {"stages": "RuntimeError: no"}
    assert run(tmp_path, before, after) == 1
    assert "FAILED in the second run: stages: RuntimeError: no" in capsys.readouterr().out


def test_clips_made_by_other_engines_or_in_other_steps_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = report(1), report(2, factor=1.3)
    before["settings"]["clips_by"] = "fp32, 4 steps of euler"
    after["settings"]["clips_by"] = "int8, 2 steps of euler"
    assert [row.name for row in compare(before, after)] == ["engine/denoiser/fp32"]
    run(tmp_path, before, after)
    said = "clips, stages and calls were made by fp32, 4 steps of euler, and by int8, 2 steps of euler."
    assert f"note: Only engines are compared: {said}" in capsys.readouterr().out
    after["settings"]["clips_by"] = before["settings"]["clips_by"]
    assert len(compare(before, after)) == 2


def test_what_is_no_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match="cannot be read"):
        read_report(path)
    path.write_text(json.dumps({"schema": "dreamactor.benchmark/0"}))
    with pytest.raises(InputError, match="run 'dreamactor bench' again"):
        read_report(path)
    assert cli.main(["bench", "compare", str(path), str(path)]) == 2
    assert "dreamactor.benchmark/0" in capsys.readouterr().err


def test_reports_of_other_networks_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = report(1), report(2, factor=1.3)
    after["settings"]["preset"] = "puppet"
    assert run(tmp_path, before, after) == 2
    assert "are of other networks: they differ in preset." in capsys.readouterr().err
    sizes = {"height": 64, "width": 64, "rows": 2, "transformer": {"depth": 2}}
    before["settings"] |= {"networks": sizes}
    after["settings"] |= {"networks": sizes | {"height": 96, "transformer": {"depth": 3}}, "preset": "tiny"}
    assert run(tmp_path, before, after) == 2
    assert "they differ in height, transformer." in capsys.readouterr().err
    after["settings"] |= {"networks": sizes, "preset": "mine"}  # another name for the same
    assert run(tmp_path, before, after) == 1
    assert "2 slower" in capsys.readouterr().out


@pytest.mark.parametrize("spoil", ["timings", "failed", "pipeline/onnxruntime"])
def test_a_report_that_is_not_whole_is_a_sentence(
    spoil: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = report(1)
    if spoil in broken:
        del broken[spoil]
    else:
        broken["timings"][spoil] = {"samples": [1.0]}
    assert run(tmp_path, report(2), broken) == 2
    error = capsys.readouterr().err
    assert f"b.json is not whole: {spoil} cannot be read" in error
    assert "run 'dreamactor bench' again" in error
