"""Two reports of the harness compared: faster, slower, no difference, or cannot tell.

A build is called slower only if it is so in raw time *and* beside what ran next to it and is not of this build, so that
a machine that was busier during one of the runs is not blamed on the build. The interval covers both views, and is
widened for how many are judged (Bonferroni), where what is measured together drifts together and counts as one. What is
compared depends on how a thing was measured:

- engines, steps and stages, at several moments of a run: their faster moments, and beside them the yardstick that was
  timed before every sample;
- whole clips, in turn with PyTorch at one moment: the samples as they are, and beside them PyTorch's of those rounds;
- calls, at one moment: the samples with as much uncertainty as the engines' moments lie apart, and the yardstick.

PyTorch's rows are shown and not judged: they are not this build's. Our networks in turn with PyTorch (`peer/`) are left
out: the engines' rows are of the same, and PyTorch's threads do not stop at once.

On an unsteady machine two runs tell little: measure two engine sets in turn instead (`compare_sets.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dreamactor.benchmark.moments import Run
from dreamactor.benchmark.schema import SCHEMA, is_ours
from dreamactor.benchmark.statistics import LEVEL, Interval, ratio
from dreamactor.benchmark.timing import Timing
from dreamactor.engines.manifest import FILE_NAME
from dreamactor.errors import InputError

THRESHOLD = 0.05
BUSY = 0.6  # share of the cores below which something else was using them
VERDICTS = ("slower", "faster", "cannot tell", "no difference")
_ENVIRONMENT = ("processor", "cores", "gpu")


@dataclass(frozen=True)
class Difference:
    """One measurement in both reports: B's time over A's; `often` where it was taken at several moments of each run."""

    name: str
    before: float
    after: float
    ratio: Interval
    verdict: str
    often: bool = True

    @property
    def ours(self) -> bool:
        return is_ours(self.name)


def read_report(path: Path) -> dict[str, Any]:
    """A report, or the one in the folder `path`; raises InputError for anything else or an incomplete one."""
    path = path / "report.json" if path.is_dir() else path
    try:
        report: dict[str, Any] = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as a benchmark report: {error}.") from error
    found = report.get("schema") if isinstance(report, dict) else None
    if found != SCHEMA:
        raise InputError(
            f"{path} has schema {found!r}; this version compares {SCHEMA!r}: run 'dreamactor bench' again."
        )
    broken = [key for key in ("environment", "settings", "timings", "failed") if not isinstance(report.get(key), dict)]
    broken += [name for name, timing in report["timings"].items() if not _is_whole(timing)] if not broken else []
    if broken:
        raise InputError(f"{path} is not whole: {', '.join(broken)} cannot be read; run 'dreamactor bench' again.")
    return report


def _is_whole(timing: Any) -> bool:
    try:
        samples = Timing.from_dict(timing).samples
        return bool(samples) and all(sample.seconds > 0 and sample.yardstick > 0 for sample in samples)
    except (KeyError, TypeError, ValueError):
        return False


def compare(before: Mapping[str, Any], after: Mapping[str, Any], threshold: float = THRESHOLD) -> list[Difference]:
    """Every timing of the same work that both reports hold, in the first one's order, judged by `verdict`."""
    old, new = Run(before), Run(after)
    wanted = _is_compared if not _other_clips(before, after) else _of_a_network
    names = [name for name in old.timings if name in new.timings and wanted(name)]
    level = level_of_each(len({_together(name) for name in names if is_ours(name)}))
    torch = [report.get("environment", {}).get("packages", {}).get("torch") for report in (before, after)]
    return [_difference(name, old, new, torch[0] == torch[1], threshold, level) for name in names]


def level_of_each(count: int) -> float:
    """The level of each of `count` intervals that are to hold together (Bonferroni)."""
    return 1 - (1 - LEVEL) / max(count, 1)


def verdict(views: Sequence[Interval], threshold: float) -> str:
    """What B's time over A's, seen in one or more ways, says of a relative change by `threshold`.

    "slower" or "faster" when each view lies beyond the threshold and excludes no change at all; "no difference" when
    one of them excludes twice the threshold; else "cannot tell".
    """
    if all(seen.value > 1 + threshold and seen.low > 1 for seen in views):
        return "slower"
    if all(seen.value < 1 / (1 + threshold) and seen.high < 1 for seen in views):
        return "faster"
    twice = (1 + threshold) ** 2
    steady = any(1 / twice <= seen.low and seen.high <= twice for seen in views)
    return "no difference" if steady else "cannot tell"


def warnings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What makes the comparison unfair, in sentences."""
    a, b = before["environment"], after["environment"]
    found = ["The two are one and the same report."] if before == after else []
    found += [
        f"{key} differs: {a.get(key)} and {b.get(key)}." for key in _ENVIRONMENT if _name(a, key) != _name(b, key)
    ]
    found += _other_clips(before, after)
    for name, report in (("first", before), ("second", after)):
        share = _cores_used(report)
        if share is not None and share < BUSY:
            found.append(f"The machine was busy in the {name} run: its engines had {share:.0%} of the cores.")
    gone = [name for name in before["timings"] if name not in after["timings"]]
    if gone:
        found.append(f"The second run did not measure {', '.join(gone)}.")
    return found


def finest(rows: list[Difference]) -> float:
    """The smallest relative change that is told in at least half of `rows`: half the interval's width."""
    return median(math.sqrt(row.ratio.high / row.ratio.low) if row.ratio.low else math.inf for row in rows) - 1


def _other_clips(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The sentence on whole clips that were made with other engines or in other steps, where they were."""
    made = [report.get("settings", {}).get("clips_by") for report in (before, after)]
    if None in made or made[0] == made[1]:  # earlier reports do not say
        return []
    return [f"Only engines are compared: clips, stages and calls were made by {made[0]}, and by {made[1]}."]


def _other_networks(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """In what the networks and the sizes of two runs differ; by their preset alone where a report is an earlier one."""
    if not all("networks" in settings for settings in (before, after)):
        return ["preset"] if before.get("preset") != after.get("preset") else []
    old, new = before["networks"], after["networks"]
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _cores_used(report: Mapping[str, Any]) -> float | None:
    """Share of the cores that CPU engines had while they ran, at the median; far below 1 on a machine that is busy."""
    cores = report.get("settings", {}).get("threads") or report["environment"].get("cores") or 1
    engines = [timing for name, timing in report["timings"].items() if name.startswith("engine/")]
    shares = [
        processor / seconds / cores
        for timing in engines
        for processor, seconds in zip(timing["processor"], timing["samples"], strict=True)
    ]
    return median(shares) if shares and not report["environment"].get("gpu") else None


def _name(environment: Mapping[str, Any], key: str) -> Any:
    value = environment.get(key)
    return value.get("name") if isinstance(value, dict) else value  # of a GPU the name, not its temperature


def _together(name: str) -> str:
    """A name for what is measured together, and drifts together: engines and stages at one run of moments."""
    kind = name.partition("/")[0]
    return "moments" if kind in ("engine", "device", "step", "stage") else kind


def _is_compared(name: str) -> bool:
    return not (name.startswith("peer/") and is_ours(name))


def _of_a_network(name: str) -> bool:
    """Whether it is of a network by itself, and not of a clip."""
    return name.startswith(("engine/", "device/"))


def _difference(name: str, old: Run, new: Run, same_torch: bool, threshold: float, level: float) -> Difference:
    before, after = old.timings[name], new.timings[name]
    others = sorted(old.in_turn_with(name) & new.in_turn_with(name)) if same_torch and is_ours(name) else []
    if others:
        views = [
            ratio(new.within(name), old.within(name), level),
            ratio(new.beside(name, others), old.beside(name, others), level),
        ]
    else:
        raw = ratio(new.estimate(name), old.estimate(name), level)
        drift = median(sample.yardstick for sample in after.samples) / median(s.yardstick for s in before.samples)
        views = [raw, Interval(raw.value / drift, raw.low / drift, raw.high / drift)]
    seen = Interval(views[0].value, min(view.low for view in views), max(view.high for view in views))
    often = min(len(timing.blocks()) for timing in (before, after)) > 1
    return Difference(name, median(before.seconds), median(after.seconds), seen, verdict(views, threshold), often)


def format_differences(rows: list[Difference], notes: list[str]) -> str:
    """For the terminal: a line a measurement, the changed ones first, PyTorch's last."""
    order = {said: place for place, said in enumerate(VERDICTS)}
    lines = [f"note: {note}" for note in notes]
    for row in sorted(rows, key=lambda row: (not row.ours, order[row.verdict], -abs(math.log(row.ratio.value)))):
        change = f"{row.before * 1e3:9.1f} -> {row.after * 1e3:9.1f} ms"
        interval = f"x{row.ratio.value:.3f} [{row.ratio.low:.3f}, {row.ratio.high:.3f}]"
        lines.append(f"{row.verdict if row.ours else '(PyTorch)':14s} {row.name:44s} {change}   {interval}")
    lines.append(", ".join(f"{sum(row.ours and row.verdict == said for row in rows)} {said}" for said in VERDICTS))
    once = [row for row in rows if row.ours and not row.often]
    told = [f"{finest(often):.1%}"] if (often := [row for row in rows if row.ours and row.often]) else []
    told += [f"{finest(once):.1%} in what was measured at one moment of each"] if once else []
    lines.append(f"These runs tell changes beyond about {', '.join(told) or 'nothing'}.")
    return "\n".join(lines)


def main(before: Path, after: Path, threshold: float = THRESHOLD) -> int:
    """Prints the comparison of two reports, or of two engine sets that are measured in turn for it; 1 when anything of
    ours became slower by more than `threshold` or broke, else 0."""
    for path in (before, after):
        if not path.exists():
            raise InputError(f"There is no {path}: give two reports of the harness, or the folders of two engine sets.")
    sets = [(path / FILE_NAME).is_file() for path in (before, after)]
    if any(sets) and not all(sets):
        names = (before, after) if sets[0] else (after, before)
        raise InputError(f"{names[0]} is an engine set and {names[1]} is none: give two sets, or two reports.")
    if all(sets):
        from dreamactor.benchmark.compare_sets import compare_sets, other_clips

        rows, notes, broke = compare_sets(before, after, threshold), other_clips(before, after), {}
    else:
        old, new = read_report(before), read_report(after)
        if differing := _other_networks(old["settings"], new["settings"]):
            raise InputError(f"{before} and {after} are of other networks: they differ in {', '.join(differing)}.")
        rows, notes, broke = compare(old, new, threshold), warnings(old, new), new["failed"]
        if any(row.ours and row.verdict == "cannot tell" for row in rows):
            notes.append(
                f"Not every change by {threshold:.0%} can be told from the machine's own. Two engine sets can be "
                "measured in turn: dreamactor bench compare SET SET."
            )
    if not rows:
        raise InputError(f"{before} and {after} have no measurement in common.")
    print(format_differences(rows, notes))
    for section, error in broke.items():
        print(f"FAILED in the second run: {section}: {error}")
    return 1 if broke or any(row.ours and row.verdict == "slower" for row in rows) else 0
