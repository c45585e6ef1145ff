"""The GPU check's report and the tile table: which tiles a report proves wrong, and its rates taken into the table.

`python -m dreamactor.benchmark.gpu_tiles REPORT.json` orders `kernels/tiles.json` by what was measured and takes out
every tile that failed a check.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

from dreamactor.kernels import tiles
from dreamactor.kernels.tiles import Tile


def wrong_tiles(report: dict[str, Any], kernel: str, size: int | None) -> dict[str, str]:
    """Tiles of `kernel` and `size` that failed a check anywhere in a report -> the case they failed at."""
    return {
        name: str(entry.get("label", entry.get("case")))
        for entry in report["kernels"]
        if entry["kernel"] == kernel and size is not None and entry.get("size") == size
        for name, row in entry["tiles"].items()
        if row.get("passed") is False
    }


def failed_kernels(report: dict[str, Any]) -> dict[tuple[str, str | None], str]:
    """(kernel, variant, or None for all variants) that failed as a whole in a report -> what failed."""
    failed: dict[tuple[str, str | None], str] = {}
    for name, what in (("compiled_and_graphs", "its operator failed"), ("sanitizer", "it failed under the sanitizer")):
        for row in report.get(name, []):
            if row.get("passed") is False:
                failed[row["kernel"], row.get("variant")] = what
    for entry in report["kernels"]:
        wrong = any(row.get("passed") is False for row in (entry, *entry["tiles"].values()))
        if entry.get("size") is None and wrong:  # one tile for all, or never set up
            failed[entry["kernel"], entry.get("variant", "")] = f"failed at {entry.get('label', entry.get('case'))}"
    return failed


def with_measurements(table: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """A copy of the table, each list that `report` timed ordered by speed, its rates filled in.

    The largest case of a kernel and size decides in which all of its tiles were timed that were timed at all: rates are
    of the same work on the same card. A tile that failed a check anywhere is taken out, and so is a size with none
    left. A kernel that failed as a whole gives no rates, whether or not the report was judged. Only lists of the
    report's own architecture change.
    """
    table = copy.deepcopy(table)
    arch = tiles.table_key(int(report["capability"].replace(".", "")))
    where = f"{report['device']}, triton {report['triton']}, {report['date'][:10]}"
    failed = set(failed_kernels(report))
    for kernel, size in dict.fromkeys((entry["kernel"], entry.get("size")) for entry in report["kernels"]):
        lists = table["tiles"].get(kernel, {}).get(str(arch), {})
        wrong = wrong_tiles(report, kernel, size)
        candidates = [found for found in lists.get(str(size), []) if Tile(**found).name not in wrong]
        timed = [
            entry["tiles"]
            for entry in report["kernels"]
            if (entry["kernel"], entry.get("size")) == (kernel, size)
            and not {(kernel, entry.get("variant", "")), (kernel, None)} & failed
        ]
        rates = _rates(timed, {Tile(**found).name for found in candidates})
        for candidate in candidates if rates else ():
            for known in ("rate", "measured_on"):  # of an earlier run, or another card
                candidate.pop(known, None)
            if rate := rates.get(Tile(**candidate).name):
                candidate |= {"rate": rate, "measured_on": where}
        if candidates:
            lists[str(size)] = sorted(candidates, key=lambda candidate: -(candidate.get("rate") or 0))
        else:
            lists.pop(str(size), None)
    return table


def _rates(timed: list[dict[str, Any]], names: set[str]) -> dict[str, float]:
    """TFLOP/s or GB/s of the tiles `names` in the case that decides, cases from small to large; {} where none does."""
    cases = [
        {name: round(row.get("tflops") or row["gbps"], 1) for name, row in rows.items() if "ms" in row}
        for rows in timed
    ]
    wanted = names & set().union(*cases)
    return next((case for case in reversed(cases) if wanted and wanted <= set(case)), {})


def written(table: dict[str, Any]) -> str:
    """The table as JSON with a tile a line."""
    tile = re.compile(r"\{[^{}]*\}")  # an innermost object
    return tile.sub(lambda found: json.dumps(json.loads(found[0])), json.dumps(table, indent=1)) + "\n"


def main(path: Path) -> None:
    """Takes the report at `path` into the table; the static figures of tiles taken out go with them."""
    table = with_measurements(json.loads(tiles.TABLE.read_text()), json.loads(path.read_text()))
    tiles.TABLE.write_text(written(table))
    from dreamactor.kernels import static  # imports triton

    static.prune()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
