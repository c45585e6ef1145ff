"""A whole run of the harness: sections in turn, one report. What `dreamactor bench` calls.

    main(Settings(preset="puppet"))   # writes build/bench/report.json, report.html and plots/, prints the table

A section that cannot run here (no torch, no server environment) is noted in `not_run` with its reason; others go on.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dreamactor.benchmark import schema
from dreamactor.benchmark.environment import conditions, environment
from dreamactor.benchmark.timing import Timing
from dreamactor.engines import Engines, open_engines
from dreamactor.errors import DreamActorError, InputError

SECTIONS = ("engine", "peers", "trace", "service", "scaling", "outside")


@dataclass(frozen=True)
class Settings:
    """What was asked for. None means automatic: fp32 and whatever else is built, every section, every core.

    No section is begun after `minutes`; what is left out is noted in the report.
    """

    preset: str = "puppet"
    precisions: tuple[str, ...] | None = None
    engines: Path | None = None
    output: Path = Path("build/bench")
    sections: tuple[str, ...] | None = None
    quick: bool = False
    minutes: float = 12.0
    threads: int | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.sections or () if name not in SECTIONS]
        if unknown:
            raise InputError(f"There is no section {', '.join(unknown)}; choose of {', '.join(SECTIONS)}.")

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
    """What the sections share: the settings, the open engine sets by precision, and what was found so far."""

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

    Raises InputError or EngineError when there is nothing to measure.
    """
    report = run(settings, say or _say)
    from dreamactor.benchmark.table import print_table

    write(report, settings.output)
    print_table(report)
    print("  ".join(str(settings.output / name) for name in ("report.json", "report.html", "plots/")))
    return 1 if report["failed"] else 0


def write(report: Mapping[str, Any], folder: Path) -> None:
    """`report.json`, `report.html` and the page's charts as `plots/*.png` in `folder`; earlier plots are removed."""
    from dreamactor.benchmark.html import write_html
    from dreamactor.benchmark.plots import report_charts
    from dreamactor.benchmark.png import png

    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    _replace(folder / "report.json", (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    _replace(folder / "report.html", write_html(report).encode())
    for old in plots.glob("*.png"):
        old.unlink()
    for chart in report_charts(report):
        _replace(plots / f"{chart.name}.png", png(chart.drawing, chart.title, chart.caption))


def run(settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """The report as a dictionary of `schema.KEYS`."""
    from dreamactor.benchmark import sections

    with ExitStack() as opened:
        folders = _folders(settings, say)  # building what is missing does not count towards the minutes
        started = time.monotonic()
        sets = {name: opened.enter_context(open_engines(path, settings.threads)) for name, path in folders.items()}
        bench = Bench(settings, folders, sets)
        bench.report["settings"] = {**settings.to_dict(), "preset": bench.main.preset.name, "precisions": list(sets)}
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
            except DreamActorError as error:
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


def _folders(settings: Settings, say: Callable[[str], None]) -> dict[str, Path]:
    """Engine sets by precision, the fp32 one first; built where they are missing."""
    from dreamactor import paths
    from dreamactor.build import build_set
    from dreamactor.engines import read_manifest

    if settings.engines is not None:
        return {read_manifest(settings.engines).precision: settings.engines}
    wanted = settings.precisions or ("fp32",)
    folders = {name: build_set(settings.preset, name, "cpu", log=say) for name in wanted}
    if settings.precisions is None:
        for path in sorted(paths.ENGINES.glob(f"{settings.preset}-*-cpu/manifest.json")):
            folders.setdefault(path.parent.name.split("-")[1], path.parent)
    return folders


def _finite(value: Any) -> Any:
    """JSON knows no infinity: an endless interval's ends become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
