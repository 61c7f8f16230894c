"""MIND: fitted, exported as an ONNX user tower of several vectors and an index of item vectors."""

from __future__ import annotations

from typing import Any

from pydantic import Field as Bound

from recsys.errors import ConfigError
from recsys.models.layers.capsules import Routing
from recsys.models.mind import Mind, MindCredit, MindShape
from recsys.recipes.retriever_config import RetrieverConfig
from recsys.recipes.retriever_recipe import RetrieverRecipe, catalogue_tensors, retriever_settings
from recsys.train.view import TrainView


class MindConfig(RetrieverConfig):
    """The user side; item side, loss and index are inherited from RetrieverConfig.

    Attributes:
        interests: vectors a user at most; a history of n items has ⌊log2(n)⌋ of them, and at least one.
        routing: of behaviours to interests, "cosine" or the paper's "accumulate" (see `InterestCapsules`).
        iterations: of the routing.
        profiles: means of the history, each with its own learned weights by age, that every interest is told.
        widening: inner width of the MLP that makes the interests, over `dim`.
        credit: which interests a target trains: "logsumexp", all that score it high; "max", the one that scores it
            highest; "label", as in the paper, the interests mixed by how well they suit the target.
        power: of "label": the greater, the more the interest that suits best is alone; None = it is.
        places: as RetrieverConfig has it; fewer by default, as a place costs as much as it has interests.
    """

    interests: int = Bound(4, ge=1, le=16)
    routing: Routing = "cosine"
    iterations: int = Bound(3, ge=1, le=10)
    profiles: int = Bound(4, ge=1, le=16)
    widening: int = Bound(4, ge=1)
    credit: MindCredit = "logsumexp"
    power: float | None = Bound(None, gt=0)
    places: float = Bound(0.4, gt=0, le=1)


class MindRecipe(RetrieverRecipe[MindConfig]):
    """Leaves the channel "mind"."""

    name = "mind"
    title = "MIND"
    channel_type = "interests"
    config_type = MindConfig

    def build_model(self, config: MindConfig, view: TrainView) -> Mind:
        """See `RetrieverRecipe.build_model`."""
        if view.features.history is None:
            raise ConfigError("mind: interests come out of a history; add a history feature, or leave mind out")
        shape = MindShape(
            **retriever_settings("mind", config, view),
            interests=config.interests,
            routing=config.routing,
            iterations=config.iterations,
            profiles=config.profiles,
            widening=config.widening,
            credit=config.credit,
            power=config.power,
        )
        return Mind(shape, *catalogue_tensors(view, shape.item_fields))

    def options(self, model: Any) -> dict[str, Any]:
        """See `RetrieverRecipe.options`."""
        return {"interests": model.shape.interests}
