"""The page of `recsys bench index`: recall against microseconds and against bytes, one pair of charts a world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from recsys.evaluate.charts import Line, categories, curves, nines
from recsys.evaluate.markup import block_html, figure
from recsys.evaluate.section import Figure, Table
from services.cli.bench.page import Heading, bench_page

_FLOOR: Final = 0.5
"""Recall at which charts begin; nobody serves less."""
_BUDGETS: Final = (50, 100, 200, 500, 1_000, 2_000)
_COLUMNS: Final = (
    ("name", "Index"),
    ("setting", "A search reads"),
    ("recall_at_100", "Recall@100"),
    ("micros_per_query", "µs a query"),
    ("memory_bytes_per_item", "Bytes an item, searched"),
    ("bytes_per_item", "Bytes an item, on disk"),
    ("build_seconds", "Build, s"),
)


def page(report: Mapping[str, Any]) -> str:
    """One HTML file without anything from elsewhere.

    Args:
        report: as `recsys bench index` prints it; its indexes have `points`.
    """
    heading = Heading("Indexes compared", "recsys bench index", "Recall, time and memory of an index")
    return bench_page(heading, report, [_world(world) for world in report["worlds"]])


def _world(world: Mapping[str, Any]) -> str:
    indexes: Sequence[Mapping[str, Any]] = world["indexes"]
    rows = [[_cell(found[key]) for key, _ in _COLUMNS] for found in indexes]
    titles = [title for _, title in _COLUMNS]
    caption = f"Each index as tuned to its recall target, queries of {world['queries']}, one at a time on one thread."
    return (
        f"<section><h2>{escape(world['name'])}</h2>{block_html(Table(titles, rows, caption))}"
        f"{figure(Figure(_by_time(indexes), _TIME), 'Recall@100 against µs a query')}"
        f"{figure(Figure(_by_bytes(indexes), _BYTES), 'Recall@100 against bytes an item')}</section>"
    )


_TIME: Final = (
    "Each line is one index over its settings (lists read, nodes held, rows scored exactly), the fastest for each "
    "recall. Left and up is better. Recall below .5 is not drawn."
)
_BYTES: Final = (
    "Each line is the best recall within a time; from left to right, indexes that read more bytes of an item before "
    "one is scored exactly. The exact vectors are mapped from disk beside them."
)


def _cell(value: str | float) -> str | float:
    """Whole µs, bytes and seconds; shares as they are."""
    return value if isinstance(value, str) or value <= 1 else round(value)


def _by_time(indexes: Sequence[Mapping[str, Any]]) -> str:
    lines = {found["name"]: _frontier(found["points"]) for found in indexes}
    xs = sorted({micros for points in lines.values() for micros, _ in points})
    drawn = [
        Line(name, [dict(points).get(x) for x in xs], f"line-{i}")
        for i, (name, points) in enumerate(lines.items())
        if points
    ]
    about = "; ".join(f"{name} at best {points[-1][1]:.3f}" for name, points in lines.items() if points)
    return curves(xs, drawn, "Recall and time", about, x_label="µs a query, one thread", scale=nines())


def _frontier(points: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
    """(µs, recall) of the settings that nothing faster finds more than."""
    best: list[tuple[float, float]] = []
    for micros, recall in sorted((point["micros"], point["recall"]) for point in points):
        if recall >= _FLOOR and (not best or recall > best[-1][1]):
            best.append((micros, recall))
    return best


def _by_bytes(indexes: Sequence[Mapping[str, Any]]) -> str:
    ordered = sorted(indexes, key=lambda found: found["memory_bytes_per_item"])
    names = [f"{found['name']}\n{found['memory_bytes_per_item']:,.0f} bytes" for found in ordered]
    lines = []
    for i, budget in enumerate(_BUDGETS):
        values = [
            max((p["recall"] for p in found["points"] if p["micros"] <= budget and p["recall"] >= _FLOOR), default=None)
            for found in ordered
        ]
        if any(value is not None for value in values):
            lines.append(Line(f"within {budget:,} µs", values, f"line-{i}"))
    about = "; ".join(name.replace("\n", " ") for name in names)
    return categories(names, lines, "Recall and bytes", about, x_label="", scale=nines())
