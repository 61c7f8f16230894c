"""The parts of a report that a recipe may contribute: a section of tables, figures and prose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Table:
    """A table; text is escaped when rendered, numbers stand at the right.

    Attributes:
        columns: headings, one a column.
        rows: cells, one sequence a row; a float below 100 has four decimals, None is a dash.
        caption: one sentence on what is shown and in which unit.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float | None]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing: `svg` is a whole `<svg>` element, trusted as it is (see `recsys.evaluate.charts`)."""

    svg: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Html:
    """Markup put into the report as it is: whoever builds it escapes what came from data."""

    markup: str


Block: TypeAlias = Table | Figure | Html


@dataclass(frozen=True, slots=True)
class Section:
    """One titled part of the report.

    Attributes:
        title: heading, plain text.
        intro: what the reader is about to see and how to read it, plain text.
        blocks: tables, figures and markup, in order.
    """

    title: str
    intro: str = ""
    blocks: Sequence[Block] = field(default_factory=tuple)
