"""OTM's synthetic study (Zhuo et al. 2020, arXiv 2006.15408, §5.1): regret of a beam over trees that were trained.

1,000 items with y_j ~ Bernoulli(σ(w_j·x − 5)) are dealt to a random tree of 1,024 slots; a node's score is θ_n·[x; 1].
TDM trains uniformly drawn nodes of each level on whether any leaf below is relevant, OTM all that its own beam scores
on pseudo-targets. Both see the same data, tree and start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.beam import best_nodes, children
from recsys.models.losses.pseudo_targets import any_below, pseudo_targets

Method: TypeAlias = Literal["otm", "tdm"]
METHODS: Final[tuple[Method, ...]] = ("otm", "tdm")
CUTOFFS: Final = (1, 10, 20, 50)

PUBLISHED: Final = {"otm": (0.0024, 0.0163, 0.0349, 0.1083), "tdm": (0.0033, 0.0205, 0.0453, 0.1363)}
"""Regret by cutoff, the paper's Table 1."""

_TDM_NODES: Final = 100
_RATE: Final = 0.01


@dataclass(frozen=True, slots=True)
class StudySetting:
    """Sizes, the paper's by default.

    Attributes:
        items, features: M and d.
        train, test: vectors x of each.
        bias: what is taken off w_j·x.
        levels: of the tree below its root; slots without an item are leaves that nobody wants.
        batch, epochs: of the training.
        beam: k, in training and test.
    """

    items: int = 1000
    features: int = 10
    train: int = 10_000
    test: int = 1_000
    bias: float = 5.0
    levels: int = 10
    batch: int = 500
    epochs: int = 200
    beam: int = 50

    @property
    def slots(self) -> int:
        """Leaves."""
        return 1 << self.levels


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """What is drawn for one seed; vectors have a last entry of 1.

    Attributes:
        x, labels: (train, d + 1) and (train, slots) of the leaves.
        test_x, chances: (test, d + 1) and (test, slots), η of the leaves, 0 for a slot without an item.
        start: (nodes, d + 1) weights that training starts from.
    """

    x: Tensor
    labels: Tensor
    test_x: Tensor
    chances: Tensor
    start: Tensor


def drawn_world(setting: StudySetting, seed: int) -> World:
    """The data, the tree (which slot an item has) and the start of a seed."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(setting.items, setting.features, generator=generator)
    slots = torch.randperm(setting.slots, generator=generator)[: setting.items]

    def rows(count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, setting.features, generator=generator)
        chances = torch.zeros(count, setting.slots)
        chances[:, slots] = torch.sigmoid(x @ weights.T - setting.bias)
        return F.pad(x, (0, 1), value=1.0), chances

    x, chances = rows(setting.train)
    test_x, test_chances = rows(setting.test)
    labels = torch.bernoulli(chances, generator=generator)
    start = torch.randn(2 * setting.slots - 1, setting.features + 1, generator=generator)
    return World(x, labels, test_x, test_chances, start)


def train(method: Method, world: World, setting: StudySetting, seed: int) -> Tensor:
    """(nodes, d + 1) the weights that a method ends with."""
    generator = torch.Generator().manual_seed(seed)
    theta = world.start.clone()
    optimiser = torch.optim.Adam([theta], lr=_RATE, fused=True)
    slope = _otm_slope(world, setting) if method == "otm" else _tdm_slope(world, setting, generator)
    for _ in range(setting.epochs):
        for rows in torch.split(torch.randperm(setting.train, generator=generator), setting.batch):
            theta.grad = slope(rows, theta).T @ world.x[rows]
            optimiser.step()
    return theta


def regret(theta: Tensor, world: World, setting: StudySetting) -> list[float]:
    """Regret at each cutoff: mean η of the best leaves less that of the beam's first, over the test set."""
    leaves = found_leaves(world.test_x @ theta.T, setting.slots, setting.beam)
    got = world.chances.gather(1, leaves - (setting.slots - 1))
    best = world.chances.topk(setting.beam, dim=1).values
    return [float((best[:, :m].mean(dim=1) - got[:, :m].mean(dim=1)).mean()) for m in CUTOFFS]


def found_leaves(scores: Tensor, slots: int, beam: int) -> Tensor:
    """(B, beam) leaves that a beam finds in scores (B, 2 · slots - 1) of all nodes, best first."""
    *_, last = beam_levels(scores, slots, beam)
    return best_nodes(last, scores.gather(1, last), beam)


def beam_levels(scores: Tensor, slots: int, beam: int) -> list[Tensor]:
    """(B, C) the nodes that a beam scores at each level below the root, of a tree whose slots are a power of two."""
    found = []
    kept = torch.zeros(len(scores), 1, dtype=torch.long)
    for _ in range(slots.bit_length() - 1):
        nodes = children(kept, slots - 1)
        found.append(nodes)
        kept = nodes
        if nodes.shape[1] > beam:
            kept = best_nodes(nodes, scores.gather(1, nodes), beam, ordered=False)
    return found


def measure(
    setting: StudySetting, seeds: int, tell: Callable[[str, int, list[float], float], None]
) -> dict[str, list[list[float]]]:
    """Regrets by method, seed and cutoff; `tell` hears of each run: method, seed, regrets, seconds."""
    found: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    for seed in range(seeds):
        world = drawn_world(setting, seed)
        for method in METHODS:
            began = time.perf_counter()
            regrets = regret(train(method, world, setting, seed), world, setting)
            found[method].append(regrets)
            tell(method, seed, regrets, time.perf_counter() - began)
    return found


def summary(regrets: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Regrets by method, seed and cutoff, their means, and the two methods seed by seed."""
    by_method = {method: torch.tensor(regrets[method], dtype=torch.double) for method in METHODS}
    gains = by_method["otm"] - by_method["tdm"]
    return {
        "cutoffs": list(CUTOFFS),
        "regrets": regrets,
        "mean": {method: found.mean(dim=0).tolist() for method, found in by_method.items()},
        "published": {method: list(PUBLISHED[method]) for method in METHODS},
        "paired": {"mean": gains.mean(dim=0).tolist(), "below": (gains < 0).sum(dim=0).tolist()},
    }


_Slope: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Rows of the training set (B,) and weights → (B, nodes) the slope of the summed loss in the scores."""


def _otm_slope(world: World, setting: StudySetting) -> _Slope:
    def slope(rows: Tensor, theta: Tensor) -> Tensor:
        scores = world.x[rows] @ theta.T
        nodes = torch.cat(beam_levels(scores, setting.slots, setting.beam), dim=1)
        return _slope_at(nodes, scores, pseudo_targets(scores, world.labels[rows]))

    return slope


def _tdm_slope(world: World, setting: StudySetting, generator: torch.Generator) -> _Slope:
    targets = any_below(world.labels)

    def slope(rows: Tensor, theta: Tensor) -> Tensor:
        nodes = torch.cat([_drawn_nodes(level, len(rows), generator) for level in range(1, setting.levels + 1)], dim=1)
        return _slope_at(nodes, world.x[rows] @ theta.T, targets[rows])

    return slope


def _slope_at(nodes: Tensor, scores: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy's slope at some nodes (B, C) of each row, 0 at all others."""
    slope = scores.gather(1, nodes).sigmoid_().sub_(targets.gather(1, nodes))
    return torch.zeros_like(scores).scatter_(1, nodes, slope)


def _drawn_nodes(level: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, C) nodes of a level, for each row a set drawn evenly without putting back.

    Every row takes a stretch of one order of the level, from a place of its own on.
    """
    width = 1 << level
    order = torch.randperm(width, generator=generator)
    start = torch.randint(width, (count, 1), generator=generator)
    return order[(start + torch.arange(min(_TDM_NODES, width))) % width] + width - 1
