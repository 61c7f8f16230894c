"""How far each model of the bundle lies above or below every yardstick, with paired intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from recsys.evaluate import charts
from recsys.evaluate.baselines import title_of
from recsys.evaluate.markup import signed
from recsys.evaluate.results import Interval, ModelResult
from recsys.evaluate.section import Block, Figure, Section, Table

DRAWN: Final = "recall@50"
_COLUMNS: Final = {"recall@50": "Recall@50", "hr@10": "HR@10", "ndcg@10": "NDCG@10"}


def leads_section(results: Sequence[ModelResult]) -> Section:
    """Every model of the bundle over every yardstick: drawn in Recall@50, beside it HR@10 and NDCG@10 in a table."""
    ours = [result for result in results if result.leads]
    intro = (
        "Differences under the same resamples of users, with 95 % intervals. What stands right of 0 with its whole "
        "interval is better than the yardstick; what holds 0 may be chance."
    )
    blocks: list[Block] = [_figure(ours), _table(ours)] if ours else []
    return Section("Over each yardstick", intro if ours else "There is no yardstick to compare with.", blocks)


def _figure(ours: Sequence[ModelResult]) -> Figure:
    rows = []
    for result in ours:
        for name, leads in result.leads.items():
            value, interval = leads[DRAWN]
            label = f"{result.name} over {title_of(name)}"
            rows.append(charts.Bar(label, value, signed(value), interval, _kind(interval)))
    described = "; ".join(f"{bar.label} {bar.text}" for bar in rows)
    return Figure(charts.differences(rows, f"Leads in {_COLUMNS[DRAWN]}", described), f"Leads in {_COLUMNS[DRAWN]}.")


def _kind(interval: Interval) -> str:
    """Coloured where the difference is more than chance."""
    low, high = interval
    return "line-1" if low > 0 else "line-2" if high < 0 else "line-5"


def _table(ours: Sequence[ModelResult]) -> Table:
    rows = [
        [f"{result.name} over {title_of(name)}", *(_cell(*leads[measure]) for measure in _COLUMNS)]
        for result in ours
        for name, leads in result.leads.items()
    ]
    return Table(("Lead", *_COLUMNS.values()), rows)


def _cell(value: float, interval: Interval) -> str:
    return f"{signed(value)} ({signed(interval[0])} to {signed(interval[1])})"
