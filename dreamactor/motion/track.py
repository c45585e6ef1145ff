"""The main person of a clip, followed from frame to frame: what was seen of them when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dreamactor.errors import InputError
from dreamactor.motion.landmarks import Candidate, Landmarker, Seen
from dreamactor.motion.look import Look, appearance, same_look
from dreamactor.motion.roi import Picture

BRIEF = 0.25  # seconds somebody must be seen in a row; what is seen for less is a mistake of the detectors
SAMPLES, SPACING = (4, 10), 0.4  # frames searched for everybody, to choose whom to follow; seconds between them
SEARCHES = 24  # frames searched at most before a clip counts as empty
SAME_PERSON = 0.5  # body sides somebody may move between two samples
JUMP = 0.35  # body sides somebody may move between two frames
FORGET = 0.7  # seconds after which somebody lost, and alone in the clip, may come back anywhere
THOROUGH = 3  # hidden hands are sought in every so many-th frame


@dataclass(frozen=True)
class Followed:
    """One entry a frame, None where the person was not found; `others` is how many there were besides at once."""

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
    seen: list[Seen] = field(default_factory=list)

    @property
    def area(self) -> float:
        return float(sum(find.size**2 for find in self.finds))


def main_person(landmarker: Landmarker, picture: Picture, name: str) -> tuple[Seen, int]:
    """The largest person of a photo and how many others there are; raises InputError naming it when there is nobody."""
    seen = landmarker.everybody(picture)
    if not seen:
        raise InputError(
            f"No person found in {name}; give a photo in which a face or a body is seen clearly and not too small."
        )
    return seen[0], len(seen) - 1


def follow(
    landmarker: Landmarker,
    frames: Sequence[Picture] | NDArray[np.uint8],
    fps: float,
    on_frame: Callable[[int], None] | None = None,
) -> Followed:
    """Follows the person who is largest over the whole clip, uint8 RGB [T, H, W, 3].

    `on_frame(done)` is called once a frame and may raise to stop. Raises InputError when there is nobody.
    """
    known, start, others = _choose(landmarker, frames, fps)
    first = known[start]
    look = appearance(frames[start], first)
    seen: list[Seen | None] = [None] * len(frames)
    seen[start] = first
    done = 1
    for order in (range(start + 1, len(frames)), range(start - 1, -1, -1)):
        trail = _Trail(landmarker, first, look, fps, alone=others == 0)
        for index in order:
            seen[index] = trail.next(frames[index], known.get(index), index % THOROUGH == 0)
            done += 1
            if on_frame:
                on_frame(done)
    followed = Followed(tuple(seen), others)
    if _longest_run(followed.found) < min(len(frames), max(2, round(BRIEF * fps))):
        raise _nobody(len(frames), len(frames))
    return followed


class _Trail:
    """The person from frame to frame, onwards from the `first` find; others must look alike unless there are none."""

    def __init__(self, landmarker: Landmarker, first: Seen, look: Look, fps: float, alone: bool) -> None:
        self._landmarker, self._look, self._fps, self._alone = landmarker, look, fps, alone
        self._last = first
        self._missing = 0  # frames since the last find

    def next(self, picture: Picture, known: Seen | None, thorough: bool) -> Seen | None:
        """The person in the next frame, who is `known` already where that is near enough."""
        here = self._last.candidate
        if known is not None and self._alone and not self._missing and _near(known.candidate, here, JUMP):
            seen: Seen | None = known
        else:
            seen = self._find(picture, here, thorough)
        self._last, self._missing = (seen, 0) if seen else (self._last, self._missing + 1)
        return seen

    def _find(self, picture: Picture, here: Candidate, thorough: bool) -> Seen | None:
        """Where they were, else near there; after a while anywhere, if nobody else is in the clip."""
        lost = self._missing / self._fps
        if not self._missing:
            seen = self._landmarker.observe(picture, here, self._last, thorough)
            if seen is not None and _near(seen.candidate, here, JUMP):
                return seen
        if lost < FORGET:
            again = self._landmarker.search_near(picture, here)
        elif thorough:
            again = self._landmarker.search(picture, smallest=0.3 * here.size)
        else:
            return None
        reach = JUMP * (1 + 2 * min(1.0, lost / FORGET))
        for where in sorted(again, key=lambda one: float(np.hypot(one.x - here.x, one.y - here.y))):
            if (self._alone and lost >= FORGET) or _near(where, here, reach):
                seen = self._landmarker.observe(picture, where)
                if seen is not None and (self._alone or same_look(self._look, appearance(picture, seen))):
                    return seen
        return None


def _near(one: Candidate, other: Candidate, reach: float) -> bool:
    size = max(one.size, other.size)
    alike = 0.4 < one.size / other.size < 2.5
    return alike and float(np.hypot(one.x - other.x, one.y - other.y)) < reach * size


def _choose(
    landmarker: Landmarker, frames: Sequence[Picture] | NDArray[np.uint8], fps: float
) -> tuple[dict[int, Seen], int, int]:
    """What is seen of the main person in the frames looked at, in which of them to begin, and how many others were met
    in one frame at most."""
    people: list[_Person] = []
    others = 0
    looked = 0
    samples = int(np.clip(np.ceil(len(frames) / fps / SPACING), *SAMPLES))
    for index in _spread(len(frames), samples):
        if looked >= samples and people:
            break
        looked += 1
        present = landmarker.everybody(frames[index])
        others = max(others, len(present) - 1)
        for seen in present:
            _join(people, index, seen)
    if not people:
        raise _nobody(looked, len(frames))
    person = max(people, key=lambda one: one.area)
    best = int(np.argmax([seen.score for seen in person.seen]))
    return dict(zip(person.frames, person.seen, strict=True)), person.frames[best], others


def _nobody(looked: int, frames: int) -> InputError:
    return InputError(
        f"No person found in the driving clip ({looked} of {frames} frames were searched); give a clip in which a face "
        "or a body is seen clearly and not too small."
    )


def _longest_run(found: NDArray[np.bool_]) -> int:
    """The most frames in a row that are True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], found.astype(np.int8), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _spread(count: int, samples: int) -> list[int]:
    """First `samples` frames spread evenly, then the ones between, at most `SEARCHES` in all."""
    order = [int(i) for i in np.linspace(0, count - 1, min(count, samples + 2))[1:-1].round()] or [0]
    order += [int(i) for i in np.linspace(0, count - 1, min(count, SEARCHES - samples)).round()]
    return list(dict.fromkeys(order))


def _join(people: list[_Person], index: int, seen: Seen) -> None:
    """Adds somebody to the nearest person met before, or to a new one; the samples are not always in time order."""
    where = seen.candidate

    def gap(person: _Person) -> float:
        nearest = int(np.argmin(np.abs(np.array(person.frames) - index)))
        last = person.finds[nearest]
        if person.frames[nearest] == index or not _near(where, last, np.inf):
            return np.inf
        return float(np.hypot(last.x - where.x, last.y - where.y)) / max(last.size, where.size)

    best = min(people, key=gap, default=None)
    if best is None or gap(best) > SAME_PERSON:
        best = _Person()
        people.append(best)
    best.frames.append(index)
    best.finds.append(where)
    best.seen.append(seen)
