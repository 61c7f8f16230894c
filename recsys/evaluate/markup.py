"""Blocks of a section as HTML: tables that scroll, figures with captions, everything from data escaped."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from html import escape

from recsys.evaluate.section import Block, Figure, Html, Table


def block_html(block: Block) -> str:
    """One block as markup."""
    match block:
        case Html(markup):
            return markup
        case Figure():
            return figure(block)
        case Table():
            return panel(_table(block))


def figure(block: Figure, heading: str = "") -> str:
    """A drawing in a panel, scrolling sideways on a narrow screen."""
    title = f"<h4>{escape(heading)}</h4>" if heading else ""
    caption = f"<figcaption>{escape(block.caption)}</figcaption>" if block.caption else ""
    return f'<div class="panel">{title}<figure>{scroll(block.svg, heading or block.caption)}{caption}</figure></div>'


def pair(figures: Sequence[tuple[str, Figure]]) -> Html:
    """Figures with headings, side by side where there is room."""
    return Html('<div class="pair">' + "".join(figure(block, heading) for heading, block in figures) + "</div>")


def panel(markup: str) -> str:
    """Markup on a panel."""
    return f'<div class="panel">{markup}</div>'


def scroll(markup: str, label: str) -> str:
    """Markup that scrolls sideways by itself, by keyboard too."""
    return f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(label)}">{markup}</div>'


def table(columns: Sequence[str], rows: Sequence[str], caption: str, left: Container[int] = ()) -> str:
    """A table of rows that are markup already; headings of the columns in `left` are left-aligned."""
    head = "".join(f'<th scope="col"{_side(i, left)}>{escape(name)}</th>' for i, name in enumerate(columns))
    above = f"<caption><span>{escape(caption)}</span></caption>" if caption else ""
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return scroll(f"<table>{above}{body}</table>", caption or "table")


def row(cells: Sequence[str], kind: str = "", left: Container[int] = ()) -> str:
    """A row of cells that are markup already; the first one is its heading."""
    first, *rest = cells
    opening = f'<tr class="{kind}">' if kind else "<tr>"
    others = "".join(f"<td{_side(i, left)}>{cell}</td>" for i, cell in enumerate(rest, 1))
    return f'{opening}<th scope="row">{first}</th>{others}</tr>'


def _side(column: int, left: Container[int]) -> str:
    return ' class="left"' if column in left else ""


def number(value: float | None, digits: int = 4) -> str:
    """A number as tables show it; a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float, digits: int = 4) -> str:
    """A difference, with a true minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """A share as per cent."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def micros(value: float) -> str:
    """A duration in the unit that suits it."""
    if value < 1_000:
        return f"{value:.0f} µs"
    return f"{value / 1_000:.1f} ms" if value < 1_000_000 else f"{value / 1_000_000:.1f} s"


def _table(block: Table) -> str:
    words = {i for values in block.rows for i, value in enumerate(values) if isinstance(value, str)}
    rows = [row([_cell(value) for value in values], left=words) for values in block.rows]
    return table(block.columns, rows, block.caption, words)


def _cell(value: str | int | float | None) -> str:
    if isinstance(value, str):
        return escape(value)
    if value is None:
        return number(None)
    if math.isfinite(value) and value == int(value):
        return f"{int(value):,}"
    return number(value) if abs(value) < 100 else f"{value:,.1f}"
