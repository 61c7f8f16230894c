"""What is recorded of a tree retriever's rounds, and what the report shows: curves, beams, the top of the tree."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from recsys.data.catalogue import Catalogue
from recsys.data.interactions import Interactions
from recsys.evaluate.categories import Categories
from recsys.evaluate.charts import Branch, Line, curves, hierarchy
from recsys.evaluate.section import Block, Figure, Section, Table
from recsys.index.item_tree import ItemTree
from recsys.recipes.retriever_report import training_curve
from recsys.recipes.tdm_quality import WANTED, BeamQuality
from recsys.train.config import TrainingResult
from recsys.types import Rows

TOP_LEVELS: Final = 4
"""Levels below the root that the picture shows."""
TITLES: Final = 4
KINDS: Final = 3
_STANDS_OUT: Final = 1.5
"""How many times its share of all items a kind has below a node that is named after it."""


@dataclass(frozen=True, slots=True)
class Round:
    """A fit on one tree, and what beams found with it."""

    result: TrainingResult
    beams: list[BeamQuality]


@dataclass(frozen=True, slots=True)
class Training:
    """How a fit went.

    Attributes:
        alone: of the towers before there was a tree; None = they were learned in the rounds.
        rounds: on a tree, one at least.
    """

    alone: TrainingResult | None
    rounds: Sequence[Round]

    @property
    def results(self) -> list[TrainingResult]:
        """Of all stages."""
        return [*([] if self.alone is None else [self.alone]), *(one.result for one in self.rounds)]


@dataclass(frozen=True, slots=True)
class TopNode:
    """A node near the root.

    Attributes:
        level: depth.
        items: below it.
        kinds: categories that have a greater share of its items than of all, the most outstanding first.
        titles: of the most chosen items below it.
    """

    level: int
    items: int
    kinds: list[str]
    titles: list[str]


def top_of_tree(tree: ItemTree, catalogue: Catalogue, train: Interactions) -> list[TopNode]:
    """The nodes of the first levels, each followed by those below it."""
    chosen = np.bincount(train.rows, minlength=len(tree))
    order = tree.rows[tree.left_to_right()]
    categories = Categories.of(catalogue)
    levels = min(TOP_LEVELS, tree.depth - 1)
    found: list[tuple[int, int, TopNode]] = []
    for level in range(levels + 1):
        bounds = _bounds(tree, level)
        for place, (start, stop) in enumerate(itertools.pairwise(bounds)):
            rows = order[start:stop]
            rows = rows[rows >= 0]
            best = rows[np.argsort(-chosen[rows], kind="stable")[:TITLES]]
            titles = [catalogue.titles()[row] for row in best]
            kinds = [] if categories is None else _standing_out(categories, rows)
            found.append((place << levels - level, level, TopNode(level, len(rows), kinds, titles)))
    return [node for _, _, node in sorted(found, key=lambda one: one[:2])]


def tdm_record(training: Training, top: Sequence[TopNode]) -> str:
    """What `tdm_sections` shows, as JSON."""
    record = {
        "alone": None if training.alone is None else _stage(training.alone),
        "rounds": [{**_stage(one.result), "beams": [asdict(beam) for beam in one.beams]} for one in training.rounds],
        "top": [asdict(node) for node in top],
    }
    return json.dumps(record, indent=1) + "\n"


def tdm_sections(record: Mapping[str, Any]) -> list[Section]:
    """Sections from a component's `training.json`."""
    alone, rounds = record["alone"], record["rounds"]
    first = (
        "The towers were fitted alone, as a two-tower's, and the tree made of clusters of their items' vectors; then "
        "inner nodes and attention were learned"
        if alone
        else "Towers, inner nodes and attention were learned"
    )
    several = "" if len(rounds) == 1 else f" in {len(rounds)} rounds, between which the tree was learned anew"
    intro = (
        f"{first}{several}, at {rounds[-1]['samples_per_s']:,.0f} targets a second. A beam keeps the best nodes of "
        "every level; one as wide as the tree is brute force with the same scorer, which recall and regret compare the "
        "narrower ones with."
    )
    stages = [*([("towers alone", alone)] if alone else []), *((f"round {n}", one) for n, one in enumerate(rounds, 1))]
    blocks: list[Block] = [_stage_table(stages), *training_curve(_points(stages))]
    if rounds[-1]["beams"]:
        blocks += _beams(rounds[-1]["beams"])
    return [Section("TDM", intro, [*blocks, _picture(record["top"])])]


def _stage(result: TrainingResult) -> dict[str, Any]:
    return {
        "epochs": result.epochs,
        "samples_per_s": result.samples_per_s,
        "seconds": result.seconds,
        "curve": [
            {"epoch": r.epoch, "loss": r.loss, "seconds": r.seconds, "metrics": dict(r.metrics)} for r in result.curve
        ],
    }


def _bounds(tree: ItemTree, level: int) -> list[int]:
    """Where, from left to right, the leaves below each node of a level begin and end."""
    slots = np.ones(tree.slots, np.int64)
    counts = tree.bottom_up(slots, np.add)
    nodes = tree.level(level)
    return [0, *np.cumsum(counts[nodes.start : nodes.stop]).tolist()]


def _standing_out(categories: Categories, rows: Rows) -> list[str]:
    """Categories by how much more of their share is among these items than among all."""
    if not len(rows):
        return []
    everywhere = np.asarray(categories.shares.mean(axis=0)).ravel()
    here = np.asarray(categories.shares[rows].mean(axis=0)).ravel()
    more = here - everywhere
    best = [at for at in np.argsort(-more) if here[at] >= _STANDS_OUT * everywhere[at]]
    return [categories.names[at] for at in best[:KINDS]]


def _stage_table(stages: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """What each stage came to: the best validation, and beams of its tree."""
    beams = [beam["beam"] for beam in stages[-1][1]["beams"]]
    columns = [
        "stage",
        "epochs",
        "seconds",
        "targets/s",
        "validation HR@10",
        *(f"HR@10, beam {beam}" for beam in beams),
    ]
    rows = []
    for name, stage in stages:
        best = next((point for point in stage["curve"] if point["epoch"] == stage["epochs"]), None)
        validated = None if best is None else best["metrics"].get("hr@10")
        found = [beam["hit_rate"] for beam in stage["beams"]] if "beams" in stage else [None] * len(beams)
        speed = f"{stage['samples_per_s']:,.0f}"
        rows.append([name, stage["epochs"], round(stage["seconds"]), speed, validated, *found])
    caption = (
        "Validation is of the whole catalogue without a tree, of the default beam with one, on a sample of the targets "
        "where they are many; the beams are on a smaller sample, the widest is brute force."
    )
    return Table(columns, rows, caption)


def _points(stages: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The epochs of all stages, seconds since the start of the first."""
    found = []
    before = 0.0
    for name, stage in stages:
        found += [{**point, "stage": name, "seconds": before + point["seconds"]} for point in stage["curve"]]
        before += stage["seconds"]
    return found


def _beams(beams: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Recall and regret by beam, as a table and a chart."""
    lengths = [str(k) for k in WANTED]
    columns = ["beam", *(f"recall@{k}" for k in lengths), *(f"regret@{k}" for k in lengths)]
    columns += ["HR@10", "nodes scored", "µs"]
    rows = [
        [
            beam["beam"],
            *(beam["recall"].get(k) for k in lengths),
            *(beam["regret"].get(k) for k in lengths),
            beam["hit_rate"],
            round(beam["nodes_scored"]),
            round(beam["micros"]),
        ]
        for beam in beams
    ]
    caption = "Against every leaf scored; regret is in units of the score; µs are the median of one core."
    table = Table(columns, rows, caption)
    if len(beams) < 2:
        return [table]
    lines = [
        Line(f"recall@{k}", [beam["recall"].get(k) for beam in beams], f"line-{place}")
        for place, k in enumerate(lengths)
    ]
    widths = [float(beam["beam"]) for beam in beams]
    drawn = curves(widths, lines, "What a beam finds", "recall over beam width", x_label="nodes kept a level")
    return [Figure(drawn, "Share of the best leaves that a beam finds."), table]


def _picture(top: Sequence[Mapping[str, Any]]) -> Figure:
    """The first levels of the tree: what stands out below a node, and below the last ones what is chosen most."""
    deepest = max(node["level"] for node in top)
    branches = [
        Branch(
            node["level"],
            ", ".join(node["kinds"][: KINDS if node["level"] == deepest else KINDS - 1]) or "of all kinds",
            f"{node['items']:,} items" + (f": {' · '.join(node['titles'])}" if node["level"] == deepest else ""),
        )
        for node in top
    ]
    drawn = hierarchy(branches, "The top of the tree", f"{len(top)} nodes from the root down")
    caption = "Kinds that a node has more of than the catalogue has; of the last level the items chosen most."
    return Figure(drawn, caption)
