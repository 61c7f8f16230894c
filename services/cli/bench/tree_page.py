"""The page of `recsys bench tree`: what a search scores and how long it takes by the number of items, and recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from recsys.evaluate.charts import Line, curves, decades
from recsys.evaluate.markup import block_html, figure
from recsys.evaluate.section import Figure, Table
from services.cli.bench.page import Heading, bench_page

_ITEMS: Final = "items; both scales are logarithmic"
_OF_TIMES: Final = (
    "Median microseconds of a request. What a beam costs grows with the depth of the tree, the logarithm of the items."
)
_OF_SCORED: Final = (
    "Vectors that a request is compared with: nodes of the tree; all items (flat); centres of lists, and the items of "
    "the lists that are read, taken as equally long (ivf)."
)
_CAPTION: Final = "Recall@100: of every leaf scored for a beam, of flat for ivf. Medians, one request at a time."


class _Search(NamedTuple):
    """One way to search a number of items."""

    name: str
    micros: float
    scored: float
    recall: float


def page(report: Mapping[str, Any]) -> str:
    """One HTML file without anything from elsewhere.

    Args:
        report: as `recsys bench tree` prints it.
    """
    trees: Sequence[Mapping[str, Any]] = sorted(report["trees"], key=lambda found: found["n"])
    sizes = [found["n"] for found in trees]
    searches = [_searches(found) for found in trees]
    blocks = [block_html(_table(sizes, searches))]
    if len(sizes) > 1:
        micros = {same[0].name: [one.micros for one in same] for same in zip(*searches, strict=True)}
        scored = {same[0].name: [one.scored for one in same] for same in zip(*searches, strict=True)}
        blocks = [
            figure(Figure(_drawn(sizes, micros, "Microseconds a request"), _OF_TIMES), "Microseconds by items"),
            figure(Figure(_drawn(sizes, scored, "Vectors scored a request"), _OF_SCORED), "Vectors scored by items"),
            *blocks,
        ]
    about = (
        f"{report['dim']} columns, {report['attended']} behaviours, k = {report['k']}, on one thread. The score of a "
        "node is a product and attention over the behaviours; flat and ivf search by the product alone."
    )
    heading = Heading("Tree search", "recsys bench tree", "What a beam down a tree of items costs, and finds")
    return bench_page(
        heading, report, [f"<section><h2>By number of items</h2><p>{about}</p>{''.join(blocks)}</section>"]
    )


def _searches(found: Mapping[str, Any]) -> list[_Search]:
    beams = [
        _Search(f"beam {beam['beam']}", beam["micros"], beam["nodes_scored"], beam["recall_at_100"])
        for beam in found["beams"]
    ]
    return [
        *beams,
        _Search("every leaf", found["every_leaf_micros"], found["n"], 1.0),
        _Search("flat", found["flat_micros"], found["n"], 1.0),
        _Search("ivf", found["ivf_micros"], found["ivf_vectors_scored"], found["ivf_recall_at_100"]),
    ]


def _drawn(sizes: Sequence[int], series: Mapping[str, Sequence[float]], title: str) -> str:
    lines = [Line(name, values, f"line-{place}") for place, (name, values) in enumerate(series.items())]
    about = "; ".join(f"{name} {values[-1]:,.0f} at {sizes[-1]:,} items" for name, values in series.items())
    scale = decades(value for values in series.values() for value in values)
    return curves(sizes, lines, title, about, x_label=_ITEMS, scale=scale)


def _table(sizes: Sequence[int], searches: Sequence[Sequence[_Search]]) -> Table:
    rows = [
        [one.name, f"{size:,}", round(one.micros), round(one.scored), one.recall]
        for same in zip(*searches, strict=True)
        for size, one in zip(sizes, same, strict=True)
    ]
    return Table(["search", "items", "µs", "vectors scored", "recall@100"], rows, _CAPTION)
