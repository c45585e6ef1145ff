"""One picture of a job: the reference, then driving frames, control maps and output frames below each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from dreamactor.files import write_whole
from dreamactor.motion.roi import Picture

CELL = 160  # pixels a side of one picture
GAP = 4
LABEL = 18
BACKGROUND, INK = 24, 225


def contact_sheet(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Picture]]]) -> Picture:
    """A labelled grid, u8 RGB. `rows` are (label, pictures [H,W,3] of any size), `columns` the labels on top."""
    width = LABEL * 6 + len(columns) * (CELL + GAP)
    strips = [_labels(columns, width)]
    for label, pictures in rows:
        strip = np.full((CELL + GAP, width, 3), BACKGROUND, np.uint8)
        _text(strip, label, 6, CELL // 2)
        for index, picture in enumerate(pictures):
            left = LABEL * 6 + index * (CELL + GAP)
            strip[:CELL, left : left + CELL] = _fitted(picture)
        strips.append(strip)
    return np.concatenate(strips)


def job_sheet(
    reference: Picture, driving: Picture | None, controls: Picture, output: Picture, count: int = 6
) -> Picture:
    """The sheet of one job: reference [H,W,3]; driving, output [T,H,W,3]; controls [T,H,W,6]; `count` moments.

    Without driving frames nobody but the reference's person is on it.
    """
    frames = np.linspace(0, len(output) - 1, count).round().astype(int)
    drawn = np.maximum(controls[..., :3], controls[..., 3:])
    rows = [
        ("reference", [reference]),
        ("controls", list(drawn[np.minimum(frames, len(drawn) - 1)])),
        ("output", list(output[frames])),
    ]
    if driving is not None:
        rows.insert(1, ("driving", list(driving[(frames * len(driving) / len(output)).astype(int)])))
    return contact_sheet([f"frame {index}" for index in frames], rows)


def save_png(path: Path, picture: Picture) -> None:
    """Writes a u8 RGB picture."""
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data.tobytes())


def _labels(columns: Sequence[str], width: int) -> Picture:
    strip = np.full((LABEL + GAP, width, 3), BACKGROUND, np.uint8)
    for index, label in enumerate(columns):
        _text(strip, label, LABEL * 6 + index * (CELL + GAP), LABEL - 4)
    return strip


def _text(picture: Picture, text: str, x: int, y: int) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (INK, INK, INK), 1, cv2.LINE_AA)


def _fitted(picture: Picture) -> Picture:
    """The picture inside a CELL square, its shape kept."""
    scale = CELL / max(picture.shape[:2])
    size = max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1)
    shrunk = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    cell = np.full((CELL, CELL, 3), BACKGROUND, np.uint8)
    top, left = (CELL - size[1]) // 2, (CELL - size[0]) // 2
    cell[top : top + size[1], left : left + size[0]] = shrunk
    return cell
