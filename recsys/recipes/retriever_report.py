"""What is recorded of a retriever's training, and what the report shows of it: curve, field weights, index."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from recsys.evaluate.charts import Bar, Line, bars, curves
from recsys.evaluate.section import Block, Figure, Section, Table
from recsys.index.config import IndexReport
from recsys.train.config import TrainingResult
from recsys.train.export import ExportReport

_SETTINGS: Final = ("lists", "probes", "pq_bytes", "candidates", "links", "ef_search")
"""Of an index; 0 where its kind has none."""


def training_metrics(result: TrainingResult, exported: ExportReport, index: IndexReport) -> dict[str, float]:
    """What a component's manifest says of its training."""
    best = next((record for record in result.curve if record.epoch == result.epochs), None)
    return {
        "epochs": float(result.epochs),
        **({f"validation_{name}": value for name, value in best.metrics.items()} if best else {}),
        "training_seconds": result.seconds,
        "samples_per_s": result.samples_per_s,
        "parity_error": exported.parity_error,
        "index_recall_at_100": index.recall_at_100,
        "index_build_seconds": index.build_seconds,
        "index_bytes_per_item": index.bytes_per_item,
    }


def training_record(result: TrainingResult, weights: Mapping[str, Mapping[str, float]], index: IndexReport) -> str:
    """What `retriever_sections` shows, as JSON."""
    curve = [
        {"epoch": r.epoch, "loss": r.loss, "lr": r.lr, "seconds": r.seconds, "metrics": dict(r.metrics)}
        for r in result.curve
    ]
    record = {
        "epochs": result.epochs,
        "samples_per_s": result.samples_per_s,
        "curve": curve,
        "field_weights": {tower: dict(fields) for tower, fields in weights.items()},
        "index": index.model_dump(mode="json"),
    }
    return json.dumps(record, indent=1) + "\n"


def retriever_sections(title: str, record: Mapping[str, Any]) -> list[Section]:
    """Sections from a component's `training.json`, under a title."""
    blocks: list[Block] = [
        *training_curve(record["curve"]),
        *_weights(record["field_weights"]),
        _index(record["index"]),
    ]
    intro = (
        f"Trained for {record['epochs']} epochs, at {record['samples_per_s']:,.0f} targets a second. Field weights are "
        "SENet's means over a sample: 1 leaves a field as it is, more makes it stronger."
    )
    return [Section(title, intro, blocks)]


def training_curve(points: Sequence[Mapping[str, Any]]) -> list[Block]:
    """A chart of validation by minute, and a table.

    Args:
        points: one an epoch: epoch, seconds since the start, loss, metrics; and where a fit has several the stage.
    """
    validated = [point for point in points if point["metrics"]]
    names = sorted(validated[0]["metrics"]) if validated else []
    columns = [*(["stage"] if points and "stage" in points[0] else []), "epoch", "seconds", "loss"]
    rows = [
        [*(round(point[key]) if key == "seconds" else point[key] for key in columns)]
        + [point["metrics"].get(name) for name in names]
        for point in points
    ]
    table = Table([*columns, *names], rows, "The training curve: mean loss, validation metrics.")
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
