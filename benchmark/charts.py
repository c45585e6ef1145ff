"""Kinds of charts, from plain numbers to a `Drawing`: bars with whiskers, stacked bars, lines, a roof, a waterfall."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dreamactor.benchmark.drawing import COLOURS, FAINT, INK, Circle, Drawing, Line, Point, Rectangle, Text

WIDTH = 860
BOTTOM, TOP, LEFT, KEY = 290.0, 15.0, 70.0, 250.0  # of a chart with two axes, and the room for its key on the right


@dataclass(frozen=True)
class Bar:
    """A bar to `value`, a whisker over `low`..`high`, further ticks on a thin line, and the text at its end.

    An end of the whisker that is None is unknown: it is drawn to zero, or to the last of the marks.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    text: str
    ticks: tuple[float, ...] = ()
    colour: str = COLOURS[0]
    group: str = ""  # a gap is left where it changes

    @property
    def reach(self) -> float:
        """Where the last of its marks lies."""
        return max(self.value, self.high or 0.0, *self.ticks)


@dataclass(frozen=True)
class Series:
    """Points of one line, or dots where not `joined`; `note` follows its name in the key, `labels` stand at points."""

    name: str
    points: tuple[Point, ...]
    note: str = ""
    joined: bool = True
    dots: bool = True
    labels: tuple[str, ...] = ()
    colour: str = ""


@dataclass(frozen=True)
class Block:
    """A stretch of a waterfall's row."""

    row: str
    start: float
    length: float
    colour: str
    title: str


def bars(rows: Sequence[Bar]) -> Drawing:
    """Horizontal bars on a common scale from zero."""
    left, step, gap = 250.0, 26.0, 10.0
    most = max([bar.reach for bar in rows] or [1.0]) or 1.0
    scale, y = (WIDTH - left - 90) / most, 8.0
    drawing = Drawing(WIDTH, 0)
    for index, bar in enumerate(rows):
        if index and bar.group != rows[index - 1].group:
            y += gap
        end = bar.reach * scale
        low, high = bar.low or 0.0, bar.reach if bar.high is None else bar.high
        drawing.add(
            Text((left - 8, y + 13), bar.label, "end"),
            Line(((left + bar.value * scale, y + 8), (left + end, y + 8)), FAINT),
            Rectangle((left, y), (max(bar.value * scale, 0.5), 16), bar.colour, bar.text),
            Line(((left + low * scale, y + 8), (left + high * scale, y + 8)), width=2),
            *(Line(((left + tick * scale, y + 3), (left + tick * scale, y + 13)), width=1.5) for tick in bar.ticks),
            Text((left + end + 8, y + 13), bar.text),
        )
        y += step
    drawing.height = y + 8
    return drawing


def stacked(rows: Mapping[str, Mapping[str, float]], order: Sequence[str]) -> Drawing:
    """One bar a row, cut into named shares of it in `order`; values in seconds, shown in milliseconds."""
    left, step = 170.0, 34.0
    names = [name for name in order if any(name in shares for shares in rows.values())]
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    drawing = Drawing(WIDTH, 0)
    for index, (row, shares) in enumerate(rows.items()):
        total, x, y = sum(shares.values()) or 1.0, left, 8 + index * step
        drawing.add(Text((left - 8, y + 15), row, "end"))
        for name in (name for name in names if name in shares):
            share = shares[name] / total
            width = (WIDTH - left - 90) * share
            title = f"{name}: {shares[name] * 1e3:.2f} ms, {share:.0%}"
            drawing.add(Rectangle((x, y), (width, 22), colour[name], title))
            if width > 40:
                drawing.add(Text((x + width / 2, y + 15), f"{share:.0%}", "middle", "#ffffff"))
            x += width
        drawing.add(Text((x + 8, y + 15), f"{total * 1e3:.1f} ms"))
    drawing.legend([(name, colour[name]) for name in names], 18 + step * len(rows))
    return drawing


def lines(series: Sequence[Series], x_label: str, y_label: str, logarithmic: bool = True) -> Drawing:
    """Lines over a common pair of axes, logarithmic unless told otherwise."""
    points = [point for each in series for point in each.points]
    drawing = Drawing(WIDTH, max(340, 40 + 20 * len(series)))
    if not points:
        return drawing
    x_axis = Axis.over([x for x, _ in points], LEFT, WIDTH - KEY, logarithmic)
    y_axis = Axis.over([y for _, y in points], BOTTOM, TOP, logarithmic)
    _frame(drawing, x_axis, y_axis, x_label, y_label)
    for index, each in enumerate(series):
        colour = each.colour or COLOURS[index % len(COLOURS)]
        places = tuple((x_axis.at(x), y_axis.at(y)) for x, y in each.points)
        if each.joined and len(places) > 1:
            drawing.add(Line(places, colour, 2))
        for place, (x, y) in zip(places if each.dots else (), each.points, strict=False):
            drawing.add(Circle(place, colour, f"{each.name}: {short(x)}, {short(y)}"))
        for (x, y), label in zip(places, each.labels, strict=False):
            drawing.add(Text((x + 8, y + 14), label, colour=colour))
        _key(drawing, index, colour, f"{each.name} {each.note}".strip())
    return drawing


def roofline(roof: tuple[float, float], points: Mapping[str, Point]) -> Drawing:
    """`roof` is (operations a second, bytes a second); a point is (operations a byte, operations a second)."""
    operations, bandwidth = roof
    ridge = operations / bandwidth
    x_axis = Axis.over([ridge / 8, ridge * 8, *(x for x, _ in points.values())], LEFT, WIDTH - KEY, True)
    low = min([y for _, y in points.values()] or [operations]) / 2
    y_axis = Axis.over([low, operations * 1.3], BOTTOM, TOP, True)
    start = max(x_axis.low, y_axis.low / bandwidth)
    corners = ((start, bandwidth * start), (ridge, operations), (x_axis.high, operations))
    drawing = Drawing(WIDTH, 340)
    _frame(drawing, x_axis, y_axis, "operations a byte", "operations a second")
    drawing.add(Line(tuple((x_axis.at(x), y_axis.at(y)) for x, y in corners), INK, 2))
    for index, (name, (x, y)) in enumerate(points.items()):
        colour, over = COLOURS[index % len(COLOURS)], min(operations, bandwidth * x)
        place, share = (x_axis.at(x), y_axis.at(y)), f"{y / over:.0%} of the roof"
        drawing.add(Line((place, (place[0], y_axis.at(over))), colour), Circle(place, colour, f"{name}: {share}", 6))
        _key(drawing, index, colour, f"{name} {y / over:.0%}")
    return drawing


def waterfall(blocks: Sequence[Block], seconds: float, key: Sequence[tuple[str, str]]) -> Drawing:
    """Rows of stretches over one clock from 0 to `seconds`; `key` names the colours."""
    left, step = 170.0, 24.0
    rows = list(dict.fromkeys(block.row for block in blocks))
    axis = Axis(0.0, seconds, left, WIDTH - 30, False)
    bottom = 10 + step * len(rows)
    drawing = Drawing(WIDTH, bottom + 26)
    drawing.add(*(Text((left - 8, 22 + step * i), row, "end") for i, row in enumerate(rows)))
    for mark in axis.marks():
        drawing.add(Line(((axis.at(mark), 6), (axis.at(mark), bottom)), FAINT))
        drawing.add(Text((axis.at(mark), bottom + 16), f"{mark:g} s", "middle"))
    for block in blocks:
        y, x = 10 + step * rows.index(block.row), axis.at(block.start)
        width = max(axis.at(block.start + block.length) - x - 0.4, 0.6)
        drawing.add(Rectangle((x, y), (width, 16), block.colour, block.title))
    drawing.legend(key, bottom + 30, left)
    return drawing


@dataclass(frozen=True)
class Axis:
    """Maps values from `low`..`high` to pixels from `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool

    @classmethod
    def over(cls, values: Sequence[float], begin: float, end: float, logarithmic: bool) -> Axis:
        """With some room around the values; from zero where not logarithmic."""
        low, high = min(values), max(values)
        if logarithmic:
            low, high = max(low, 1e-12), max(high, 1e-12)
            return cls(low / 1.3, high * 1.3, begin, end, True)
        return cls(0.0, (high or 1.0) * 1.08, begin, end, False)

    def at(self, value: float) -> float:
        if self.logarithmic:
            share = math.log(max(value, 1e-12) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def marks(self) -> list[float]:
        """Round values along the axis, never fewer than three."""
        if not self.logarithmic:
            return self._even(7)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        digits = (1,) if len(decades) > 4 else (1, 2, 5)
        marks = [10.0**decade * digit for decade in decades for digit in digits]
        found = [mark for mark in marks if self.low <= mark <= self.high]
        return found if len(found) > 2 else self._even(5)

    def _even(self, count: int) -> list[float]:
        step = _round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step)
        return [step * i for i in range(first, math.floor(self.high / step) + 1)]


def _round_step(rough: float) -> float:
    power = 10 ** math.floor(math.log10(rough))
    return float(next(power * digit for digit in (1, 2, 5, 10) if power * digit >= rough))


def _frame(drawing: Drawing, x_axis: Axis, y_axis: Axis, x_label: str, y_label: str) -> None:
    left, right, bottom, top = x_axis.begin, x_axis.end, y_axis.begin, y_axis.end
    for mark in x_axis.marks():
        drawing.add(Line(((x_axis.at(mark), bottom), (x_axis.at(mark), top)), FAINT))
        drawing.add(Text((x_axis.at(mark), bottom + 17), short(mark), "middle"))
    for mark in y_axis.marks():
        drawing.add(Line(((left, y_axis.at(mark)), (right, y_axis.at(mark))), FAINT))
        drawing.add(Text((left - 6, y_axis.at(mark) + 4), short(mark), "end"))
    drawing.add(Line(((left, top), (left, bottom), (right, bottom))))
    drawing.add(Text(((left + right) / 2, bottom + 36), x_label, "middle"))
    drawing.add(Text((16, (bottom + top) / 2), y_label, "middle", turned=True))


def _key(drawing: Drawing, index: int, colour: str, content: str) -> None:
    y = 18 + 20 * index
    drawing.add(Rectangle((WIDTH - KEY + 15, y), (11, 11), colour), Text((WIDTH - KEY + 32, y + 10), content))


def short(value: float) -> str:
    """1200000 as 1.2M, 1200 as 1200, 0.02 as 0.02, 0.0002 as 0.2m."""
    if 0.01 <= abs(value) < 10_000 or not value:
        return f"{value:.4g}"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1e-3, "m"), (1e-6, "u")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
