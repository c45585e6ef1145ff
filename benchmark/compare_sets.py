"""Two engine sets compared, measured in turn, so that a machine's drift hits both alike.

rows = compare_sets(Path("build/yesterday"), Path("build/engines/puppet-fp32-cpu"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from dreamactor.benchmark import inputs
from dreamactor.benchmark.compare import THRESHOLD, Difference, level_of_each, verdict
from dreamactor.benchmark.statistics import paired_ratio
from dreamactor.benchmark.timing import Case, Timing, interleave
from dreamactor.engines import Engines, open_engines
from dreamactor.engines.session import Array
from dreamactor.errors import InputError
from dreamactor.interfaces import Shape, Size, interface, random_inputs
from dreamactor.pipeline import Animator, Options

ROUNDS, CLIPS = 40, 16  # pairs of each network and of whole clips


def compare_sets(
    before: Path, after: Path, threshold: float = THRESHOLD, rounds: int = ROUNDS, clips: int = CLIPS
) -> list[Difference]:
    """Every network at the size of one segment, on inputs drawn fresh each round, and a whole clip of one segment.

    Raises InputError for sets that do not take the same inputs, EngineError for one that does not open.
    """
    with ExitStack() as closing:
        old, new = (closing.enter_context(open_engines(folder)) for folder in (before, after))
        if _inputs(old) != _inputs(new):
            raise InputError(f"{before} and {after} are of other sizes: they do not take the same inputs.")
        pairs = {f"engine/{name}": _network(old, new, name, rounds) for name in old.sessions}
        media, options = inputs.media(), Options(max_frames=old.preset.segment_frames)
        whole = [partial(Animator(each).animate, [media.reference], media.driving, options) for each in (old, new)]
        pairs["pipeline"] = _in_turn(whole, clips)
    return judge(pairs, threshold)


def _inputs(engines: Engines) -> list[dict[str, Shape]]:
    size = Size.of(engines.preset)
    return [interface(engines.preset, name).input_shapes(size) for name in engines.sessions]


def judge(pairs: Mapping[str, tuple[Timing, Timing]], threshold: float = THRESHOLD) -> list[Difference]:
    """The second timing of each pair over the first, round by round; the intervals hold jointly."""
    level, rows = level_of_each(len(pairs)), []
    for name, (old, new) in pairs.items():
        seen = paired_ratio(new.seconds, old.seconds, level)
        rows.append(Difference(name, median(old.seconds), median(new.seconds), seen, verdict([seen], threshold)))
    return rows


def _network(old: Engines, new: Engines, name: str, rounds: int) -> tuple[Timing, Timing]:
    given: dict[str, Array] = {}
    size = Size.of(old.preset)

    def fresh(round_: int) -> None:
        given.update(random_inputs(old.preset, name, size, round_))

    fresh(rounds)
    return _in_turn([partial(each.session(name).run, given) for each in (old, new)], rounds, fresh)


def _in_turn(cases: Sequence[Case], rounds: int, fresh: Callable[[int], None] | None = None) -> tuple[Timing, Timing]:
    found = interleave(dict(zip(("before", "after"), cases, strict=True)), rounds, fresh=fresh)
    return found["before"], found["after"]
