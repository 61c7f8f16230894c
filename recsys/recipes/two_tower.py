"""The SENet two-tower: fitted, exported as an ONNX user tower and an index of item vectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field as Bound

from recsys.bundle.component import ComponentInfo, write_component
from recsys.errors import ConfigError
from recsys.models.layers.sequence import Positions
from recsys.models.two_tower import HistoryEncoder, TwoTower, TwoTowerShape
from recsys.recipes.retriever_config import RetrieverConfig, SequenceConfig
from recsys.recipes.retriever_recipe import RetrieverRecipe, catalogue_tensors, retriever_settings
from recsys.train.progress import Progress
from recsys.train.view import TrainView


class EncoderConfig(SequenceConfig):
    """The user tower; the item side is inherited from SequenceConfig.

    Attributes:
        history: "attention" (SASRec's blocks), "recency" (means of the items with learned weights by age, and an MLP),
            "attention+recency" (their sum) or "mean"; left out where the features have no history.
        blocks, heads: of the attention encoder.
        profiles: means of the recency encoder, each with its own weights by age.
        widening: inner width over `dim` of the attention encoder's feed-forward part, of the recency encoder's MLP.
        positions: "absolute" places are counted from the oldest item, "rotary" ones by how far apart two items are;
            "none" leaves order to the convolution.
        convolution: items just before that each item of the history is mixed with; 0 = none.
        recompute: compute the inside of attention blocks twice rather than keep it; saves memory in long histories.
    """

    history: HistoryEncoder = "attention+recency"
    blocks: int = Bound(2, ge=1, le=24)
    heads: int = Bound(2, ge=1)
    profiles: int = Bound(4, ge=1, le=16)
    widening: int = Bound(2, ge=1)
    positions: Positions = "none"
    convolution: int = Bound(3, ge=0, le=16)
    recompute: bool = False


class TwoTowerConfig(EncoderConfig, RetrieverConfig):
    """The user tower of EncoderConfig, with the loss and the index of RetrieverConfig."""


class TwoTowerRecipe(RetrieverRecipe[TwoTowerConfig]):
    """Leaves the channel "two_tower" and the pre-ranking scorer "two_tower_scorer"."""

    name = "two_tower"
    title = "Two-tower"
    channel_type = "vector"
    config_type = TwoTowerConfig
    scorer = "two_tower_scorer"

    def build_model(self, config: TwoTowerConfig, view: TrainView) -> TwoTower:
        """See `RetrieverRecipe.build_model`."""
        return build_model(config, view)

    def fit(
        self, config: TwoTowerConfig, view: TrainView, inputs: Mapping[str, Path], out: Path, progress: Progress
    ) -> dict[str, float]:
        """See `Recipe.fit`; the scorer is the same model."""
        metrics = super().fit(config, view, inputs, out, progress)
        if view.ranks.leads:
            info = ComponentInfo(
                name=self.scorer,
                kind="scorer",
                type="vector_scorer",
                feature_set_hash=view.features.hash,
                catalogue_hash=view.catalogue.hash,
                options={"channel": self.name},
            )
            write_component(out, info)
        return metrics


def build_model(config: EncoderConfig, view: TrainView, recipe: str = "two_tower") -> TwoTower:
    """The untrained model for a view's features.

    Raises:
        ConfigError: for a field that the features lack, heads that do not divide dim, or a history longer than
            the features keep; names the recipe.
    """
    if config.dim % config.heads:
        raise ConfigError(f"{recipe}.heads = {config.heads}: must divide dim = {config.dim}")
    if config.positions == "rotary" and config.dim // config.heads % 2:
        raise ConfigError(
            f"{recipe}.positions = rotary: {config.dim} / {config.heads} heads is odd; take another width"
        )
    shape = TwoTowerShape(
        **retriever_settings(recipe, config, view),
        history=config.history if view.features.history is not None else None,
        blocks=config.blocks,
        heads=config.heads,
        profiles=config.profiles,
        widening=config.widening,
        positions=config.positions,
        convolution=config.convolution,
        recompute=config.recompute,
    )
    if shape.history is None and not shape.user_fields:
        raise ConfigError(f"{recipe}: the user tower has neither history nor attribute; add a user feature")
    return TwoTower(shape, *catalogue_tensors(view, shape.item_fields))
