"""The main person of a clip, followed from frame to frame: what was seen of them when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dreamactor.errors import InputError
from dreamactor.motion.landmarks import Candidate, Landmarker, Seen
from dreamactor.motion.roi import Picture

SAMPLES = 8  # frames searched for everybody, to choose whom to follow
SEARCHES = 60  # frames searched at most before a clip counts as empty
SAME_PERSON = 0.5  # body sides somebody may move between two samples
JUMP = 0.35  # body sides somebody may move between two frames
FORGET = 0.7  # seconds after which a lost person may come back anywhere
THOROUGH = 3  # hidden hands are sought in every so many-th frame


@dataclass(frozen=True)
class Followed:
    """One entry a frame, None where the person was not found; `people` is how many there were besides at once."""

    seen: tuple[Seen | None, ...]
    others: int

    @property
    def found(self) -> NDArray[np.bool_]:
        """[T]: whether the person was seen."""
        return np.array([one is not None for one in self.seen])


@dataclass
class _Person:
    """Somebody met in some of the sampled frames."""

    frames: list[int] = field(default_factory=list)
    finds: list[Candidate] = field(default_factory=list)

    @property
    def area(self) -> float:
        return float(sum(find.size**2 for find in self.finds))


def main_person(landmarker: Landmarker, picture: Picture, name: str) -> tuple[Seen, int]:
    """The largest person of a photo and how many others there are; raises InputError naming it when there is nobody."""
    seen = [one for one in (landmarker.observe(picture, where) for where in landmarker.search(picture)) if one]
    if not seen:
        raise InputError(
            f"No person found in {name}; give a photo in which a face or a body is seen clearly and not too small."
        )
    return seen[0], len(seen) - 1


def follow(
    landmarker: Landmarker,
    frames: Sequence[Picture] | NDArray[np.uint8],
    fps: float,
    name: str = "the driving clip",
    on_frame: Callable[[int], None] | None = None,
) -> Followed:
    """Follows the person who is largest over the whole clip, uint8 RGB [T, H, W, 3].

    `on_frame(done)` is called once a frame and may raise to stop. Raises InputError when there is nobody.
    """
    start, first, others = _choose(landmarker, frames, name)
    seen: list[Seen | None] = [None] * len(frames)
    seen[start] = first
    done = 1
    for order in (range(start + 1, len(frames)), range(start - 1, -1, -1)):
        last, missing = first, 0
        current: Seen | None = first
        for index in order:
            current = _next(landmarker, frames[index], current, last, missing / fps, index % THOROUGH == 0)
            seen[index] = current
            last, missing = (current, 0) if current else (last, missing + 1)
            done += 1
            if on_frame:
                on_frame(done)
    return Followed(tuple(seen), others)


def _next(
    landmarker: Landmarker, picture: Picture, before: Seen | None, last: Seen, lost: float, thorough: bool
) -> Seen | None:
    """The person in the next frame: where they were, else wherever they are found again."""
    here = last.candidate
    if here is None:
        return None
    if before is not None:
        seen = landmarker.observe(picture, here, before, thorough)
        if seen is not None and _near(seen.candidate, here, JUMP):
            return seen
    reach = JUMP * (1 + 4 * lost / FORGET)
    again = landmarker.search_near(picture, here) if lost < FORGET else landmarker.search(picture)
    for where in sorted(again, key=lambda one: np.hypot(one.x - here.x, one.y - here.y)):
        if lost >= FORGET or _near(where, here, reach):
            seen = landmarker.observe(picture, where)
            if seen is not None:
                return seen
    return None


def _near(one: Candidate | None, other: Candidate, reach: float) -> bool:
    if one is None:
        return False
    size = max(one.size, other.size)
    alike = 0.4 < one.size / other.size < 2.5
    return alike and float(np.hypot(one.x - other.x, one.y - other.y)) < reach * size


def _choose(landmarker: Landmarker, frames: Sequence[Picture] | NDArray[np.uint8], name: str) -> tuple[int, Seen, int]:
    """Where to begin, what is seen of the main person there, and how many others were met in one frame at most."""
    people: list[_Person] = []
    others = 0
    looked = 0
    for index in _spread(len(frames)):
        if looked >= SAMPLES and people:
            break
        looked += 1
        observed = [(where, landmarker.observe(frames[index], where)) for where in landmarker.search(frames[index])]
        real = [(where, seen) for where, seen in observed if seen is not None]
        others = max(others, len(real) - 1)
        for where, _ in real:
            _join(people, index, where)
    if not people:
        raise InputError(
            f"No person found in {name} ({looked} of {len(frames)} frames were searched); give a clip in which a face "
            "or a body is seen clearly and not too small."
        )
    person = max(people, key=lambda one: one.area)
    best = int(np.argmax([find.score for find in person.finds]))
    start = person.frames[best]
    first = landmarker.observe(frames[start], person.finds[best])
    assert first is not None  # the same call succeeded above
    return start, first, others


def _spread(count: int) -> list[int]:
    """First `SAMPLES` frames spread evenly, then the ones between, at most `SEARCHES` in all."""
    order = [int(i) for i in np.linspace(0, count - 1, min(count, SAMPLES + 2))[1:-1].round()] or [0]
    order += [int(i) for i in np.linspace(0, count - 1, min(count, SEARCHES - SAMPLES)).round()]
    return list(dict.fromkeys(order))


def _join(people: list[_Person], index: int, where: Candidate) -> None:
    """Adds a find to the nearest person met before, or to a new one; the samples are not always in time order."""

    def gap(person: _Person) -> float:
        nearest = int(np.argmin(np.abs(np.array(person.frames) - index)))
        last = person.finds[nearest]
        if person.frames[nearest] == index or not 0.4 < last.size / where.size < 2.5:
            return np.inf
        return float(np.hypot(last.x - where.x, last.y - where.y)) / max(last.size, where.size)

    best = min(people, key=gap, default=None)
    if best is None or gap(best) > SAME_PERSON:
        best = _Person()
        people.append(best)
    best.frames.append(index)
    best.finds.append(where)
