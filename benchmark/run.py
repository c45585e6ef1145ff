"""A whole run of the harness: sections in turn, one report. What `dreamactor bench` calls.

    main(Settings(preset="puppet"))   # writes build/bench/report.json, report.html and plots/, prints the table

A section that cannot run here (no torch, no server environment) is noted in `not_run` with its reason, one that breaks
in `failed`; the others go on. report.json is written after every section, so that a run that is cut off leaves what it
had measured; an interrupt leaves its page and plots too.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dreamactor.benchmark import sections
from dreamactor.benchmark.bench import Bench
from dreamactor.benchmark.engine_sets import label, open_sets
from dreamactor.benchmark.environment import conditions, environment, limited_to, thread_counts
from dreamactor.benchmark.settings import Settings
from dreamactor.benchmark.torch_engines import checkpoint_of
from dreamactor.errors import EngineError, InputError, MissingDependency
from dreamactor.files import check_output, write_whole
from dreamactor.presets import Preset
from dreamactor.serving.launcher import stoppable

JSON, PAGE, PLOTS = "report.json", "report.html", "plots"
UNFINISHED = "the run ended before this was done"


def main(settings: Settings, say: Callable[[str], None] | None = None) -> int:
    """Runs the harness; returns 0, or 1 when a section broke.

    Raises InputError or EngineError when there is nothing to measure or nowhere to write.
    """
    _prepare(settings.output)
    kept: dict[str, Any] = {}

    def keep(report: dict[str, Any]) -> None:
        kept.update(report)
        write_json(report, settings.output)

    try:
        with stoppable():  # a server that it started is stopped then
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
    """The report as a dictionary of `schema.KEYS`; `keep` is given it as far as it is, after every section and when an
    interrupt ends one."""
    with ExitStack() as opened:
        opened.enter_context(limited_to(settings.threads))
        sets = open_sets(settings, opened, say)  # building does not count towards the minutes
        bench = Bench(settings, sets)
        if settings.checkpoint is not None:
            checkpoint_of(bench.main.manifest, settings.checkpoint)  # if it is another, raised now and not in a minute
        bench.report["not_run"] |= sets.left_out
        bench.report["settings"] = {
            **settings.to_dict(), "preset": bench.main.preset.name, "precisions": list(sets.opened),
            "targets": {name: engines.manifest.target for name, engines in sets.opened.items()},
            "clips_by": _clips_by(bench), "networks": _networks(bench.main.preset),
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


def _clips_by(bench: Bench) -> str:
    """What whole clips are made with: reports in which it differs are not of the same work."""
    preset = bench.main.preset
    guided = f", guidance {preset.guidance_scale:g}" if preset.rows > 1 else ""
    return f"{label(bench.main.manifest)}, {preset.steps} steps of {preset.solver}{guided}"


def _networks(preset: Preset) -> dict[str, Any]:
    """The networks' sizes and those of what they were measured on: reports in which they differ are not comparable."""
    of_clips = ("name", "steps", "timestep_shift", "solver", "guidance_scale")
    return {**{key: value for key, value in preset.to_dict().items() if key not in of_clips}, "rows": preset.rows}


def _section(bench: Bench, title: str, work: Callable[[Bench], None], say: Callable[[str], None]) -> None:
    """Runs one section and notes why it did not run or what broke; only an interrupt gets through."""
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
