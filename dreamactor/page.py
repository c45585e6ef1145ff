"""An HTML page that needs no other file: what the reports of builds and of the benchmark have in common."""

from __future__ import annotations

import html
from collections.abc import Container, Sequence

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#22262b;background:#fff;max-width:980px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2.2rem}svg{max-width:100%;height:auto}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
td,th{padding:.3rem 1rem .3rem 0;text-align:left;border-bottom:1px solid #e4e7ea}td.n,th.n{text-align:right}
"""


def page(title: str, body: Sequence[str], style: str = "") -> str:
    """The page of a title and of parts that are HTML already; `style` comes after that of every page."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}{style}</style>{''.join(body)}</html>\n"
    )


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], numbers: Container[int], classes: Sequence[str] = ()
) -> str:
    """`numbers` are the columns that stand to the right; `classes` one word a row, for its colour."""

    def row(values: Sequence[object], tag: str) -> str:
        cells = ((" class=n" * (index in numbers), html.escape(str(value))) for index, value in enumerate(values))
        return "".join(f"<{tag}{kind}>{text}</{tag}>" for kind, text in cells)

    kinds = [f" class={kind}" for kind in classes] or [""] * len(rows)
    body = "".join(f"<tr{kind}>{row(line, 'td')}</tr>" for line, kind in zip(rows, kinds, strict=True))
    return f"<table><tr>{row(head, 'th')}</tr>{body}</table>"
