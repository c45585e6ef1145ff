"""Charts as inline SVG, drawn by hand: bars with whiskers, stacked bars, lines, a roof, a waterfall. No dependency."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COLOURS = ("#2f6fb3", "#d9772b", "#3b9c6e", "#b3405a", "#7d5bb5", "#9a8340", "#4aa3b8", "#7f7f7f", "#c5608f", "#5c7a29")
INK, FAINT = "#22262b", "#d8dce1"
WIDTH = 860


@dataclass(frozen=True)
class Bar:
    """A bar to `value`, a whisker over `low`..`high`, further ticks, and the text at its end."""

    label: str
    value: float
    low: float
    high: float
    text: str
    ticks: tuple[float, ...] = ()
    colour: str = COLOURS[0]


@dataclass(frozen=True)
class Series:
    """Points of one line; `note` follows its name in the legend."""

    name: str
    points: tuple[tuple[float, float], ...]
    note: str = ""
    joined: bool = True


@dataclass(frozen=True)
class Block:
    """A stretch of a waterfall's row."""

    row: str
    start: float
    length: float
    colour: str
    title: str


def bars(rows: Sequence[Bar]) -> str:
    """Horizontal bars on a common scale from zero."""
    left, step = 250, 26
    most = max([max(bar.value, bar.high, *bar.ticks) for bar in rows] or [1.0]) or 1.0
    scale = (WIDTH - left - 150) / most
    parts = []
    for index, bar in enumerate(rows):
        y = 8 + index * step
        parts.append(text(left - 8, y + 13, bar.label, anchor="end"))
        parts.append(rectangle(left, y, max(bar.value * scale, 0.5), 16, bar.colour, bar.text))
        parts.append(line(left + bar.low * scale, y + 8, left + bar.high * scale, y + 8))
        parts += [line(left + tick * scale, y + 3, left + tick * scale, y + 13, width=1.5) for tick in bar.ticks]
        end = max(bar.value, bar.high, *bar.ticks) * scale
        parts.append(text(left + end + 7, y + 13, bar.text))
    return _svg(WIDTH, 16 + step * len(rows), parts)


def stacked(rows: Mapping[str, Mapping[str, float]], unit: str = "ms", factor: float = 1e3) -> str:
    """One bar a row, cut into named shares of it."""
    left, step = 170, 34
    names = list(dict.fromkeys(name for shares in rows.values() for name in shares))
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    parts = []
    for index, (row, shares) in enumerate(rows.items()):
        total, x, y = sum(shares.values()) or 1.0, float(left), 8 + index * step
        parts.append(text(left - 8, y + 15, row, anchor="end"))
        for name, value in shares.items():
            width = (WIDTH - left - 110) * value / total
            title = f"{name}: {value * factor:.2f} {unit}, {value / total:.0%}"
            parts.append(rectangle(x, y, width, 22, colour[name], title))
            if width > 44:
                parts.append(text(x + width / 2, y + 15, f"{value / total:.0%}", anchor="middle", colour="#fff"))
            x += width
        parts.append(text(x + 7, y + 15, f"{total * factor:.1f} {unit}"))
    legend, height = _legend([(name, colour[name]) for name in names], 14 + step * len(rows))
    return _svg(WIDTH, height, parts + legend)


def lines(series: Sequence[Series], x_label: str, y_label: str, logarithmic: bool = True) -> str:
    """Lines over a common pair of axes, logarithmic unless told otherwise."""
    points = [point for each in series for point in each.points]
    if not points:
        return ""
    x_axis = _Axis.over([x for x, _ in points], 70, WIDTH - 250, logarithmic)
    y_axis = _Axis.over([y for _, y in points], 290, 15, logarithmic)
    parts = [*_frame(x_axis, y_axis, x_label, y_label)]
    for index, each in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        places = [(x_axis.at(x), y_axis.at(y)) for x, y in each.points]
        if each.joined and len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            circle(x, y, colour, f"{each.name}: {a:.4g}, {b:.4g}")
            for (x, y), (a, b) in zip(places, each.points, strict=True)
        ]
        parts.append(rectangle(WIDTH - 235, 18 + 20 * index, 11, 11, colour, each.name))
        parts.append(text(WIDTH - 218, 28 + 20 * index, f"{each.name} {each.note}".strip()))
    return _svg(WIDTH, max(340, 40 + 20 * len(series)), parts)


def roofline(roof: tuple[float, float], points: Mapping[str, tuple[float, float]]) -> str:
    """`roof` is (operations a second, bytes a second); a point is (operations a byte, operations a second)."""
    operations, bandwidth = roof
    ridge = operations / bandwidth
    span = [x for x, _ in points.values()]
    x_axis = _Axis.over([ridge / 20, ridge * 8, *span], 70, WIDTH - 250, True)
    low = min([y for _, y in points.values()] or [operations]) / 4
    y_axis = _Axis.over([low, operations * 1.6], 290, 15, True)
    left, right = x_axis.low, x_axis.high
    start = max(left, y_axis.low / bandwidth)
    corners = [(start, bandwidth * start), (ridge, operations), (right, operations)]
    path = " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in corners)
    parts = [*_frame(x_axis, y_axis, "operations a byte", "operations a second")]
    parts.append(f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="2"/>')
    for index, (name, (x, y)) in enumerate(points.items()):
        colour, share = COLOURS[index % len(COLOURS)], y / min(operations, bandwidth * x)
        parts.append(circle(x_axis.at(x), y_axis.at(y), colour, f"{name}: {share:.0%} of the roof", radius=6))
        parts.append(rectangle(WIDTH - 235, 18 + 20 * index, 11, 11, colour, name))
        parts.append(text(WIDTH - 218, 28 + 20 * index, f"{name} {share:.0%}"))
    return _svg(WIDTH, 340, parts)


def waterfall(blocks: Sequence[Block], seconds: float) -> str:
    """Rows of stretches over one clock from 0 to `seconds`."""
    left, step = 170, 24
    rows = list(dict.fromkeys(block.row for block in blocks))
    axis = _Axis(0.0, seconds, left, WIDTH - 20, False)
    bottom = 10 + step * len(rows)
    parts = [text(left - 8, 22 + step * i, row, anchor="end") for i, row in enumerate(rows)]
    for mark in axis.marks():
        parts.append(line(axis.at(mark), 6, axis.at(mark), bottom, FAINT))
        parts.append(text(axis.at(mark), bottom + 16, f"{mark:g} s", anchor="middle"))
    for block in blocks:
        y, x = 10 + step * rows.index(block.row), axis.at(block.start)
        width = max(axis.at(block.start + block.length) - x, 0.6)
        parts.append(rectangle(x, y, width, 16, block.colour, block.title))
    return _svg(WIDTH, bottom + 26, parts)


def text(x: float, y: float, content: str, anchor: str = "start", colour: str = INK) -> str:
    escaped = html.escape(content)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escaped}</text>'


def rectangle(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {box} fill="{colour}"><title>{html.escape(title)}</title></rect>'


def circle(x: float, y: float, colour: str, title: str, radius: float = 4) -> str:
    place = f'cx="{x:.1f}" cy="{y:.1f}" r="{radius}"'
    return f'<circle {place} fill="{colour}"><title>{html.escape(title)}</title></circle>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = INK, width: float = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'


@dataclass(frozen=True)
class _Axis:
    """Maps values from `low`..`high` to pixels from `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool

    @classmethod
    def over(cls, values: Sequence[float], begin: float, end: float, logarithmic: bool) -> _Axis:
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
        """Round values along the axis."""
        if not self.logarithmic:
            step = _round_step((self.high - self.low) / 7)
            return [self.low + step * i for i in range(int((self.high - self.low) / step) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        many = len(decades) > 4
        marks = [10.0**decade * digit for decade in decades for digit in ((1,) if many else (1, 2, 5))]
        return [mark for mark in marks if self.low <= mark <= self.high]


def _round_step(rough: float) -> float:
    power = 10 ** math.floor(math.log10(rough))
    return float(next(power * digit for digit in (1, 2, 5, 10) if power * digit >= rough))


def _frame(x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str) -> list[str]:
    left, right, bottom, top = x_axis.begin, x_axis.end, y_axis.begin, y_axis.end
    parts = [line(left, bottom, right, bottom), line(left, bottom, left, top)]
    for mark in x_axis.marks():
        parts.append(line(x_axis.at(mark), bottom, x_axis.at(mark), top, FAINT))
        parts.append(text(x_axis.at(mark), bottom + 17, short(mark), anchor="middle"))
    for mark in y_axis.marks():
        parts.append(line(left, y_axis.at(mark), right, y_axis.at(mark), FAINT))
        parts.append(text(left - 6, y_axis.at(mark) + 4, short(mark), anchor="end"))
    parts.append(text((left + right) / 2, bottom + 36, x_label, anchor="middle"))
    middle = (bottom + top) / 2
    turned = text(0, 0, y_label, anchor="middle")
    parts.append(f'<g transform="translate(13,{middle:.0f}) rotate(-90)">{turned}</g>')
    return parts


def short(value: float) -> str:
    """1200000 as 1.2M, 0.002 as 2m."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _legend(entries: Sequence[tuple[str, str]], top: float) -> tuple[list[str], float]:
    """Colour keys in rows below a chart, and the height that the chart then has."""
    parts, x, y = [], 20.0, top + 6
    for name, colour in entries:
        width = 30 + 7.2 * len(name)
        if x + width > WIDTH:
            x, y = 20.0, y + 20
        parts += [rectangle(x, y, 11, 11, colour, name), text(x + 16, y + 10, name)]
        x += width
    return parts, y + 22


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    body = "".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" font-family="system-ui, sans-serif" font-size="12">{body}</svg>'
    )
