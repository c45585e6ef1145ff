"""A drawing as a PNG, for where no page can be shown: the same marks, drawn by Pillow with its own font."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

from dreamactor.benchmark.drawing import FONT_SIZE, Circle, Drawing, Line, Rectangle, Text

SCALE = 2  # pixels of the file for one of the drawing
MARGIN, HEADER = 16, 60
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def png(drawing: Drawing, title: str, caption: str) -> bytes:
    """The drawing below its title and caption, SCALE times its size."""
    canvas = _Canvas(drawing.width + 2 * MARGIN, drawing.height + HEADER + MARGIN)
    canvas.text(Text((MARGIN, 24), title), 16)
    canvas.text(Text((MARGIN, 44), caption, colour="#555555"), FONT_SIZE)
    canvas.origin = (MARGIN, HEADER)
    for mark in drawing.marks:
        canvas.mark(mark)
    return canvas.encoded()


class _Canvas:
    """Pixels that take a drawing's coordinates, moved by `origin`."""

    def __init__(self, width: float, height: float) -> None:
        self.origin = (0.0, 0.0)
        self._image = Image.new("RGB", (round(width * SCALE), round(height * SCALE)), "#ffffff")
        self._draw = ImageDraw.Draw(self._image)

    def mark(self, mark: Text | Rectangle | Circle | Line) -> None:
        if isinstance(mark, Text):
            self.text(mark, FONT_SIZE)
        elif isinstance(mark, Rectangle):
            (x, y), (width, height) = self._at(mark.at), mark.size
            right, bottom = x + width * SCALE - 1, y + height * SCALE - 1
            self._draw.rectangle((x, y, max(x, right), max(y, bottom)), fill=mark.colour)
        elif isinstance(mark, Circle):
            x, y = self._at(mark.at)
            radius = mark.radius * SCALE
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=mark.colour)
        else:
            points = [self._at(point) for point in mark.points]
            self._draw.line(points, fill=mark.colour, width=max(1, round(mark.width * SCALE)), joint="curve")

    def text(self, mark: Text, size: float) -> None:
        font = ImageFont.load_default(size * SCALE)
        x, y = self._at(mark.at)
        if not mark.turned:
            self._draw.text((x, y), mark.content, fill=mark.colour, font=font, anchor=_ANCHORS[mark.anchor])
            return
        width, ascent = font.getlength(mark.content), round(size * SCALE)
        label = Image.new("L", (round(width) + 2, ascent * 2))
        ImageDraw.Draw(label).text((0, ascent), mark.content, fill=255, font=font, anchor="ls")
        label = label.transpose(Image.Transpose.ROTATE_90)
        start = {"start": width, "middle": width / 2, "end": 0.0}[mark.anchor]
        self._image.paste(mark.colour, (round(x - ascent), round(y - start)), label)

    def encoded(self) -> bytes:
        file = io.BytesIO()
        self._image.save(file, "PNG", optimize=True)
        return file.getvalue()

    def _at(self, point: tuple[float, float]) -> tuple[float, float]:
        return (point[0] + self.origin[0]) * SCALE, (point[1] + self.origin[1]) * SCALE
