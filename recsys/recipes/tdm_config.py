"""The settings of a TDM: its tree, its attention, what it is trained for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field as Bound
from pydantic import model_validator

from recsys.index.node_attention import STEEPEST
from recsys.recipes.two_tower import EncoderConfig, TwoTowerConfig
from recsys.retrieval.tree_channel import WIDEST_BEAM


class TdmConfig(EncoderConfig):
    """Tree, attention and training; the user tower is inherited from EncoderConfig.

    Attributes:
        time_budget_s: of the whole fit; every stage (the towers alone, each round) has an equal part.
        attended: newest items of the history that a node attends to; no more than `history_length`.
        cap: bound of the attention's logits; beyond 40 training takes the least shares, e^-cap, for none.
        beam: nodes kept a level where a channel is asked; more where more rows are asked for.
        slack: vacant leaves, as a share of the items: room for items that come later.
        tree: the first one. "vectors": the towers are fitted alone, as those of a two-tower, for `max_epochs`; the tree
            is clusters of their items' vectors, and the rounds learn its inner nodes and the attention, the towers
            fixed. "categories": by the items' attributes (at random where there are none), "random": at random;
            rounds then learn the towers too.
        rounds: fits between which the tree is learned anew.
        round_epochs: upper bound of the epochs of each.
        warm_tree: of a fit that starts from an earlier run: "kept", with vacant leaves for what is new, or "rebuilt" of
            clusters of the items' vectors as they are when the rounds begin.
        relearning: how: by 2-means over the items' vectors ("clusters", TDM; for towers that rounds move), or to where
            the training samples are likeliest ("likelihood", JTM); "none" keeps the tree.
        loss: "softmax" tells the target's ancestors from the other nodes of each level; "beam" learns from what the
            model's own beam scores (OTM) in the last round, and only there: the softmax is the loss of those before.
        training_beam: nodes kept a level by that beam.
        in_batch_nodes, uniform_nodes: what a level's softmax is over where it is wider than both together: the
            ancestors of at most so many of a step's targets at a time, and nodes drawn evenly for all others.
        leaf_weight: weight of the leaves' level, where any other has 1.
        likelihood_samples: training samples an item that the likelihood is estimated from.
        round_places: as `places`, in the rounds: a place costs a softmax a level there.
    """

    attended: int = Bound(50, ge=1, le=1_000)
    cap: float = Bound(8.0, gt=0, le=STEEPEST)
    beam: int = Bound(200, ge=1, le=WIDEST_BEAM)
    slack: float = Bound(0.05, ge=0, le=1)
    tree: Literal["vectors", "categories", "random"] = "vectors"
    rounds: int = Bound(1, ge=1, le=20)
    round_epochs: int = Bound(2, ge=1)
    warm_tree: Literal["kept", "rebuilt"] = "kept"
    relearning: Literal["clusters", "likelihood", "none"] = "clusters"
    loss: Literal["softmax", "beam"] = "softmax"
    training_beam: int = Bound(50, ge=1, le=1_000)
    in_batch_nodes: int = Bound(512, ge=1)
    uniform_nodes: int = Bound(256, ge=1)
    leaf_weight: float = Bound(1.0, gt=0)
    likelihood_samples: int = Bound(32, ge=1)
    round_places: float = Bound(0.4, gt=0, le=1)

    @model_validator(mode="after")
    def _rounds_change_something(self) -> TdmConfig:
        if self.tree == "vectors" and self.rounds > 1 and self.relearning == "clusters":
            raise ValueError(
                "rounds after a tree of vectors leave these as they are, and so their clusters: choose rounds = 1, "
                "relearning = likelihood or none, or tree = categories"
            )
        return self

    def of_towers(self, *, full_softmax: bool) -> TwoTowerConfig:
        """How the towers are fitted alone; a sampled softmax leaves no history out."""
        shared = {name: getattr(self, name) for name in EncoderConfig.model_fields}
        return TwoTowerConfig(**shared if full_softmax else {**shared, "exclude_history": "auto"})
