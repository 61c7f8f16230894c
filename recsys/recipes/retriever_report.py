"""What the report shows of a retriever: its training curve, its field weights, its index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from recsys.evaluate.charts import Bar, Line, bars, curves
from recsys.evaluate.section import Block, Figure, Section, Table

_SETTINGS: Final = ("lists", "probes", "pq_bytes", "candidates", "links", "ef_search")
"""Of an index; 0 where its kind has none."""


def retriever_sections(title: str, record: Mapping[str, Any]) -> list[Section]:
    """Sections from a component's `training.json`, under a title."""
    blocks: list[Block] = [*_curve(record), *_weights(record["field_weights"]), _index(record["index"])]
    intro = (
        f"Trained for {record['epochs']} epochs, at {record['samples_per_s']:,.0f} targets a second. Field weights are "
        "SENet's means over a sample: 1 leaves a field as it is, more makes it stronger."
    )
    return [Section(title, intro, blocks)]


def _curve(record: Mapping[str, Any]) -> list[Block]:
    validated = [point for point in record["curve"] if point["metrics"]]
    names = sorted(validated[0]["metrics"]) if validated else []
    rows = [
        [point["epoch"], round(point["seconds"]), point["loss"], *(point["metrics"].get(name) for name in names)]
        for point in record["curve"]
    ]
    table = Table(["epoch", "seconds", "loss", *names], rows, "The training curve: mean loss, validation metrics.")
    if len(validated) < 2:
        return [table]
    minutes = [point["seconds"] / 60.0 for point in validated]
    lines = [Line(name, [point["metrics"][name] for point in validated], kind) for name, kind in _kinds(names)]
    drawn = curves(minutes, lines, "Validation while training", "metric over minutes", x_label="minutes of training")
    return [Figure(drawn, "Validation metrics over minutes of training."), table]


def _kinds(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, "model" if name.startswith("ndcg") else "baseline") for name in names]


def _weights(towers: Mapping[str, Mapping[str, float]]) -> list[Block]:
    found = [
        Bar(f"{tower}: {name}", weight, f"{weight:.3f}", kind="model")
        for tower, fields in towers.items()
        for name, weight in fields.items()
    ]
    return (
        [Figure(bars(found, "SENet field weights", "mean weight of each field"), "SENet field weights.")]
        if found
        else []
    )


def _index(index: Mapping[str, Any]) -> Table:
    settings = [name for name in _SETTINGS if index.get(name)]
    names = ("kind", "metric", "count", "dim", *settings, "recall_at_100", "build_seconds", "bytes_per_item")
    caption = f"The index; recall@100 against exact search with {index['queries']} vectors of {index['query_source']}."
    return Table(names, [[index[name] for name in names]], index["warning"] or caption)
