"""Two engine sets compared, measured in turn, so that a machine's drift hits both alike.

rows = compare_sets(Path("build/yesterday"), Path("build/engines/puppet-fp32-cpu"))

Two sessions of one file can differ for as long as they are open, by where their memory lies: so the sets are opened
anew several times, and what is judged is how far these openings agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from dreamactor.benchmark import inputs
from dreamactor.benchmark.compare import THRESHOLD, Difference, level_of_each, verdict
from dreamactor.benchmark.statistics import paired_ratio
from dreamactor.benchmark.timing import Case, Timing, interleave
from dreamactor.engines import Engines, open_engines, read_manifest
from dreamactor.engines.session import Array
from dreamactor.errors import InputError
from dreamactor.interfaces import Shape, Size, interface, random_inputs
from dreamactor.pipeline import Animator, Options

OPENINGS = 10  # of both sets: nine are the least whose extremes hold for seven measurements together
ROUNDS, CLIPS = 6, 2  # pairs of each network (at least) and of whole clips, each time
MOST_ROUNDS, SECONDS = 60, 1.0  # of a small network as many as take this long
Pair = tuple[Timing, Timing]


def compare_sets(
    before: Path,
    after: Path,
    threshold: float = THRESHOLD,
    openings: int = OPENINGS,
    rounds: int = ROUNDS,
    clips: int = CLIPS,
) -> list[Difference]:
    """Every network at the size of one segment, on inputs drawn fresh each round, and a whole clip of one segment.

    Raises InputError for sets that do not take the same inputs, EngineError for one that does not open.
    """
    pairs: dict[str, Pair] = {}
    for opening in range(openings):
        turn = 1 if opening % 2 == 0 else -1  # neither is always opened first
        with ExitStack() as closing:
            old, new = [closing.enter_context(open_engines(folder)) for folder in (before, after)[::turn]][::turn]
            if _inputs(old) != _inputs(new):
                raise InputError(f"{before} and {after} are of other sizes: they do not take the same inputs.")
            for name, (first, second) in _measured(old, new, opening, rounds, clips):
                earlier = pairs.get(name)
                pairs[name] = (earlier[0].merged(first), earlier[1].merged(second)) if earlier else (first, second)
    return judge(pairs, threshold)


def other_clips(before: Path, after: Path) -> list[str]:
    """The sentence on whole clips that the two sets make in other steps, where they do."""
    ways = []
    for folder in (before, after):
        preset = read_manifest(folder).preset
        ways.append(f"{preset.steps} steps of '{preset.solver}' with guidance {preset.guidance_scale:g}")
    if ways[0] == ways[1]:
        return []
    return [f"Whole clips ('pipeline') are made in {ways[0]}, and in {ways[1]}: that is in their ratio, too."]


def _inputs(engines: Engines) -> list[dict[str, Shape]]:
    size = Size.of(engines.preset)
    return [interface(engines.preset, name).input_shapes(size) for name in engines.sessions]


def judge(pairs: Mapping[str, Pair], threshold: float = THRESHOLD) -> list[Difference]:
    """The second timing of each pair over the first, opening by opening (their blocks): of each opening the median of
    its rounds. The intervals hold jointly."""
    level, rows = level_of_each(len(pairs)), []
    for name, (old, new) in pairs.items():
        ratios = [paired_ratio(*blocks).value for blocks in zip(new.blocks(), old.blocks(), strict=True)]
        seen = paired_ratio(ratios, [1.0] * len(ratios), level)
        rows.append(Difference(name, median(old.seconds), median(new.seconds), seen, verdict([seen], threshold)))
    return rows


def _measured(old: Engines, new: Engines, opening: int, rounds: int, clips: int) -> Iterator[tuple[str, Pair]]:
    for name in old.sessions:
        yield f"engine/{name}", _network(old, new, name, opening, rounds)
    media, options = inputs.media(), Options(max_frames=old.preset.segment_frames)
    whole = [partial(Animator(each).animate, [media.reference], media.driving, options) for each in (old, new)]
    yield "pipeline", _in_turn(whole, opening, clips)


def _network(old: Engines, new: Engines, name: str, opening: int, rounds: int) -> Pair:
    given: dict[str, Array] = {}
    size = Size.of(old.preset)

    def fresh(round_: int) -> None:
        given.update(random_inputs(old.preset, name, size, opening * (MOST_ROUNDS + 1) + round_))

    fresh(rounds)
    cases = [partial(each.session(name).run, given) for each in (old, new)]
    for case in cases:
        case()
    started = time.perf_counter()
    for case in cases:
        case()
    pairs = int(SECONDS / (time.perf_counter() - started))
    return _in_turn(cases, opening, max(rounds, min(pairs, MOST_ROUNDS)), fresh)


def _in_turn(cases: Sequence[Case], opening: int, rounds: int, fresh: Callable[[int], None] | None = None) -> Pair:
    named = dict(zip(("before", "after"), cases, strict=True))
    found = interleave(named, rounds, block=opening, fresh=fresh)
    return found["before"], found["after"]
