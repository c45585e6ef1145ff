"""A whole run of the harness: sections in turn, one report. What `dreamactor bench` calls.

    main(Settings(preset="puppet"))   # writes build/bench/report.json, report.html and plots/, prints the table

A section that cannot run here (no torch, no server environment) is noted in `not_run` with its reason, one that breaks
in `failed`; others go on.
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
from dreamactor.benchmark.environment import conditions, environment, limited_to
from dreamactor.benchmark.timing import Timing
from dreamactor.commands.common import check_output, write_whole
from dreamactor.engines import Engines
from dreamactor.errors import EngineError, InputError, MissingDependency

JSON, PAGE, PLOTS = "report.json", "report.html", "plots"
SECTIONS = ("engine", "peers", "trace", "service", "scaling", "outside")


@dataclass(frozen=True)
class Settings:
    """What was asked for. None means automatic: puppet, fp32 and whatever else is built, every section, every core.

    `engines` is one set in place of a preset's, `checkpoint` what it was built from, for the PyTorch peers. No section
    is begun after `minutes`; what is left out is noted in the report.
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


def main(settings: Settings, say: Callable[[str], None] | None = None) -> int:
    """Runs the harness; returns 0, or 1 when a section broke.

    Raises InputError or EngineError when there is nothing to measure, or nowhere to write to.
    """
    _prepare(settings.output)
    report = run(settings, say or _say)
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
    write_whole(folder / JSON, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    write_whole(folder / PAGE, write_html(report).encode())
    for old in (folder / PLOTS).glob("*.png"):
        old.unlink()
    for chart in report_charts(report):
        write_whole(folder / PLOTS / f"{chart.name}.png", png(chart.drawing, chart.title, chart.caption))


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


def run(settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """The report as a dictionary of `schema.KEYS`."""
    from dreamactor.benchmark import sections
    from dreamactor.benchmark.peers import checkpoint_of

    with ExitStack() as opened:
        opened.enter_context(limited_to(settings.threads))
        sets = open_sets(settings, opened, say)  # building what is missing does not count towards the minutes
        started = time.monotonic()
        bench = Bench(settings, dict(sets.folders), dict(sets.opened))
        if settings.checkpoint is not None:
            checkpoint_of(bench.main.manifest, settings.checkpoint)  # said now if it is another, not in a minute
        bench.report["not_run"] |= sets.left_out
        bench.report["settings"] = {
            **settings.to_dict(), "preset": bench.main.preset.name, "precisions": list(bench.sets),
            "targets": {name: engines.manifest.target for name, engines in bench.sets.items()},
        }  # fmt: skip
        bench.report["environment"] = environment()
        for name, title, work in sections.PLAN:
            if not bench.wants(name):
                bench.report["not_run"].setdefault(name, "not asked for")
                continue
            passed = time.monotonic() - started
            if passed > 60 * settings.minutes:
                bench.report["not_run"][title] = f"{settings.minutes:g} minutes were over; --minutes gives it more"
                continue
            say(f"{passed:5.0f} s  {title}")
            bench.report["conditions"].append({"before": title, **conditions()})
            try:
                work(bench)
            except (InputError, MissingDependency, EngineError) as error:
                bench.report["not_run"][title] = str(error)
                say(f"         not run: {error}")
            except Exception as error:  # an hour's measurements are not thrown away; main() ends with status 1
                bench.report["failed"][title] = f"{type(error).__name__}: {error}"
                say(f"         FAILED: {traceback.format_exc()}")
        bench.report["conditions"].append({"before": "end", **conditions()})
        bench.report["timings"] = {name: timing.to_dict() for name, timing in bench.timings.items()}
        bench.report["settings"]["seconds"] = time.monotonic() - started
        report: dict[str, Any] = _finite(bench.report)
        return report


def _finite(value: Any) -> Any:
    """JSON knows no infinity: an endless interval's ends become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
