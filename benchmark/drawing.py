"""A picture as a list of marks, written as SVG for the page; `png.py` writes them as pixels. No dependency."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

COLOURS = ("#2f6fb3", "#d9772b", "#3b9c6e", "#b3405a", "#7d5bb5", "#9a8340", "#4aa3b8", "#7f7f7f", "#c5608f", "#5c7a29")
INK, FAINT = "#22262b", "#d8dce1"
FONT_SIZE = 12
Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]


@dataclass(frozen=True)
class Text:
    """`content` on the baseline through `at`; `turned` reads from bottom to top."""

    at: Point
    content: str
    anchor: Anchor = "start"
    colour: str = INK
    turned: bool = False

    def svg(self) -> str:
        x, y = self.at
        turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if self.turned else ""
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{self.anchor}" fill="{self.colour}"{turn}'
        return f"<text {place}>{html.escape(self.content)}</text>"


@dataclass(frozen=True)
class Rectangle:
    """From its upper left corner; `title` is what hovering shows."""

    at: Point
    size: Point
    colour: str
    title: str = ""

    def svg(self) -> str:
        (x, y), (width, height) = self.at, self.size
        box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        return f'<rect {box} fill="{self.colour}">{_title(self.title)}</rect>'


@dataclass(frozen=True)
class Circle:
    at: Point
    colour: str
    title: str = ""
    radius: float = 4

    def svg(self) -> str:
        place = f'cx="{self.at[0]:.1f}" cy="{self.at[1]:.1f}" r="{self.radius:g}"'
        return f'<circle {place} fill="{self.colour}">{_title(self.title)}</circle>'


@dataclass(frozen=True)
class Line:
    """Straight from point to point."""

    points: tuple[Point, ...]
    colour: str = INK
    width: float = 1

    def svg(self) -> str:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)
        return f'<polyline points="{path}" fill="none" stroke="{self.colour}" stroke-width="{self.width:g}"/>'


Mark = Text | Rectangle | Circle | Line


@dataclass
class Drawing:
    """Marks on a white ground of `width` x `height` pixels, later ones over earlier ones."""

    width: float
    height: float
    marks: list[Mark] = field(default_factory=list)

    def add(self, *marks: Mark) -> None:
        self.marks += marks

    def legend(self, entries: Sequence[tuple[str, str]], top: float, left: float = 20) -> None:
        """Names with their colours in rows from `top` on; the drawing grows to hold them."""
        x, y = left, top
        for name, colour in entries:
            width = 30 + 7.2 * len(name)
            if x + width > self.width and x > left:
                x, y = left, y + 20
            self.add(Rectangle((x, y), (11, 11), colour, name), Text((x + 16, y + 10), name))
            x += width
        self.height = max(self.height, y + 22)

    def svg(self) -> str:
        """One SVG element that needs no other file."""
        body = "".join(mark.svg() for mark in self.marks)
        size = f'viewBox="0 0 {self.width:.0f} {self.height:.0f}" width="{self.width:.0f}" height="{self.height:.0f}"'
        font = f'font-family="system-ui, sans-serif" font-size="{FONT_SIZE}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>{body}</svg>'


def _title(content: str) -> str:
    return f"<title>{html.escape(content)}</title>" if content else ""
