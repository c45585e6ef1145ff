"""A whole run of the harness: sections in turn, one report. What `dreamactor bench` calls.

    main(Settings(preset="puppet"))   # writes build/bench/report.json, report.html and plots/, prints the table

A section that cannot run here (no torch, no server environment) is noted in `not_run` with its reason, one that breaks
in `failed`; others go on. report.json is written after every section, so that a run that is ended early leaves what it
had measured; an interrupt leaves the page and the plots of it too.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dreamactor.benchmark import schema
from dreamactor.benchmark.command import MINUTES
from dreamactor.benchmark.engine_sets import open_sets
from dreamactor.benchmark.environment import conditions, environment, limited_to, thread_counts
from dreamactor.benchmark.timing import Timing
from dreamactor.commands.common import check_output, write_whole
from dreamactor.engines import Engines
from dreamactor.errors import EngineError, InputError, MissingDependency

JSON, PAGE, PLOTS = "report.json", "report.html", "plots"
SECTIONS = ("engine", "peers", "trace", "service", "scaling", "outside")
UNFINISHED = "the run ended before this was done"


@dataclass(frozen=True)
class Settings:
    """What was asked for. None means automatic: puppet, fp32 and whatever else is built, every section, every core.

    `engines` is one set in place of a preset's, `checkpoint` what it was built from, for the PyTorch peers. No section
    is begun after `minutes`; what is left out is noted in the report. `rates` are requests a second of the service's
    open loops, in place of shares of what it can do.
    """

    preset: str | None = None
    precisions: tuple[str, ...] | None = None
    engines: Path | None = None
    checkpoint: Path | None = None
    output: Path = Path("build/bench")
    sections: tuple[str, ...] | None = None
    quick: bool = False
    minutes: float = MINUTES
    threads: int | None = None
    rates: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.sections or () if name not in SECTIONS]
        if unknown:
            raise InputError(f"There is no section {', '.join(unknown)}; choose of {', '.join(SECTIONS)}.")
        if self.engines is not None and (self.preset is not None or self.precisions is not None):
            raise InputError("--engines names a set that has its own preset and precision: leave the two out.")
        if self.checkpoint is not None and self.engines is None:
            raise InputError("--checkpoint says what the set of --engines was built from: give both.")

    @property
    def preset_name(self) -> str:
        return self.preset or "puppet"

    @property
    def rounds(self) -> int:
        """Samples of an engine in each of its blocks."""
        return 3 if self.quick else 6

    @property
    def clips(self) -> int:
        """Whole clips of each case."""
        return 3 if self.quick else 7

    def to_dict(self) -> dict[str, Any]:
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


@dataclass
class Bench:
    """What the sections share: the settings, the open engine sets by label, and what was found so far."""

    settings: Settings
    folders: dict[str, Path]
    sets: dict[str, Engines]
    report: dict[str, Any] = field(default_factory=schema.empty)
    timings: dict[str, Timing] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def main(self) -> Engines:
        """The set that whole clips are made with."""
        return next(iter(self.sets.values()))

    @property
    def main_folder(self) -> Path:
        return next(iter(self.folders.values()))

    def add(self, timing: Timing) -> None:
        """Keeps a timing, joined with earlier samples of the same thing."""
        before = self.timings.get(timing.name)
        self.timings[timing.name] = before.merged(timing) if before else timing

    def wants(self, section: str) -> bool:
        return self.settings.sections is None or section in self.settings.sections

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.started

    def to_dict(self) -> dict[str, Any]:
        """The report as far as it is, fit for JSON."""
        timings = {name: timing.to_dict() for name, timing in self.timings.items()}
        found: dict[str, Any] = schema.finite({**self.report, "timings": timings})
        found["settings"]["seconds"] = self.seconds
        return found


def main(settings: Settings, say: Callable[[str], None] | None = None) -> int:
    """Runs the harness; returns 0, or 1 when a section broke.

    Raises InputError or EngineError when there is nothing to measure, or nowhere to write to.
    """
    _prepare(settings.output)
    kept: dict[str, Any] = {}

    def keep(report: dict[str, Any]) -> None:
        kept.update(report)
        write_json(report, settings.output)

    try:
        report = run(settings, say or _say, keep)
    except KeyboardInterrupt:
        if kept:
            write(kept, settings.output)
        raise
    from dreamactor.benchmark.table import print_table

    write(report, settings.output)
    print_table(report)
    print("  ".join(str(settings.output / name) for name in (JSON, PAGE, PLOTS)))
    return 1 if report["failed"] else 0


def write(report: Mapping[str, Any], folder: Path) -> None:
    """`report.json`, `report.html` and the page's charts as `plots/*.png` in `folder`; earlier plots are removed."""
    from dreamactor.benchmark.html import write_html
    from dreamactor.benchmark.plots import report_charts
    from dreamactor.benchmark.png import png

    _prepare(folder)
    write_json(report, folder)
    write_whole(folder / PAGE, write_html(report).encode())
    for old in (folder / PLOTS).glob("*.png"):
        old.unlink()
    for chart in report_charts(report):
        write_whole(folder / PLOTS / f"{chart.name}.png", png(chart.drawing, chart.title, chart.caption))


def write_json(report: Mapping[str, Any], folder: Path) -> None:
    """`report.json` in `folder`, whole or not at all."""
    write_whole(folder / JSON, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())


def _prepare(folder: Path) -> None:
    """Makes the folders; raises InputError where nothing can be written, before the minutes of measuring."""
    try:
        (folder / PLOTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The report cannot be written to {folder}: {error.strerror}; give another --output."
        ) from error
    for name in (JSON, PAGE, f"{PLOTS}/engine.png"):
        check_output(folder / name)


def run(
    settings: Settings, say: Callable[[str], None], keep: Callable[[dict[str, Any]], None] = lambda report: None
) -> dict[str, Any]:
    """The report as a dictionary of `schema.KEYS`; `keep` is given it, as far as it is, after every section and when an
    interrupt ends one."""
    from dreamactor.benchmark import sections
    from dreamactor.benchmark.peers import checkpoint_of

    with ExitStack() as opened:
        opened.enter_context(limited_to(settings.threads))
        sets = open_sets(settings, opened, say)  # building what is missing does not count towards the minutes
        bench = Bench(settings, dict(sets.folders), dict(sets.opened))
        if settings.checkpoint is not None:
            checkpoint_of(bench.main.manifest, settings.checkpoint)  # said now if it is another, not in a minute
        bench.report["not_run"] |= sets.left_out
        bench.report["settings"] = {
            **settings.to_dict(), "preset": bench.main.preset.name, "precisions": list(bench.sets),
            "targets": {name: engines.manifest.target for name, engines in bench.sets.items()},
        }  # fmt: skip
        bench.report["environment"] = environment()
        plan = {title: work for name, title, work in sections.PLAN if bench.wants(name)}
        unwanted = [name for name, _, _ in sections.PLAN if not bench.wants(name)]
        bench.report["not_run"] |= dict.fromkeys(unwanted, "not asked for") | dict.fromkeys(plan, UNFINISHED)
        for title, work in plan.items():
            try:
                _section(bench, title, work, say)
            finally:
                bench.report["environment"]["threads"] = thread_counts()
                keep(bench.to_dict())
        bench.report["conditions"].append({"before": "end", **conditions()})
        return bench.to_dict()


def _section(bench: Bench, title: str, work: Callable[[Bench], None], say: Callable[[str], None]) -> None:
    """Runs one and notes why it did not run or what broke in it; only an interrupt gets through."""
    not_run, minutes = bench.report["not_run"], bench.settings.minutes
    if bench.seconds > 60 * minutes:
        not_run[title] = f"{minutes:g} minutes were over; --minutes gives it more"
        return
    say(f"{bench.seconds:5.0f} s  {title}")
    bench.report["conditions"].append({"before": title, **conditions()})
    try:
        work(bench)
    except (InputError, MissingDependency, EngineError) as error:
        not_run[title] = str(error)
        say(f"         not run: {error}")
        return
    except Exception as error:  # an hour's measurements are not thrown away; main() ends with status 1
        bench.report["failed"][title] = f"{type(error).__name__}: {error}"
        say(f"         FAILED: {traceback.format_exc()}")
    del not_run[title]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
