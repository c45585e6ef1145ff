"""Who waits is told how many come before, again and again, and is next when they have gone."""

from __future__ import annotations

from dreamactor.serving.line import Line


def test_first_does_not_wait_and_the_others_move_up() -> None:
    line = Line()
    with line.place() as first:
        assert list(first) == []
        with line.place() as second, line.place() as third:
            assert next(second) == 1
            assert next(third) == 2
            assert next(third) == 2  # a second later, nothing has changed
    with line.place() as next_day:
        assert list(next_day) == []


def test_place_that_is_given_up_is_free() -> None:
    line = Line()
    with line.place(), line.place() as waits:
        with line.place() as leaves:
            assert next(leaves) == 2
        assert next(waits) == 1
    with line.place() as first, line.place() as second:
        assert list(first) == []
        assert next(second) == 1
