"""A training view over a planted world, for the tests of recipes: made the way a pipeline makes it."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recsys.columns import USER_ID
from recsys.data.catalogue import Catalogue
from recsys.data.splits import Holdout, split
from recsys.features.auto import infer_definition
from recsys.features.feature_set import FeatureSet
from recsys.features.offline import encode_users
from recsys.features.online import OnlineEncoder
from recsys.testing.planted import Planted, write_planted
from recsys.train.view import TrainView


def planted_view(folder: Path, world: Planted, holdout: str = "last") -> TrainView:
    """The view of a fit that chooses its epochs on validation."""
    dataset = write_planted(folder, world)
    catalogue = Catalogue.from_dataset(dataset)
    parts = split(dataset, catalogue, Holdout.parse(holdout))
    users = dataset.users()
    events = parts.train_events.collect()
    features = FeatureSet.fit(infer_definition(dataset), items=dataset.items(), users=users, events=events)
    encoder = OnlineEncoder(features, catalogue)
    in_order = pl.DataFrame({USER_ID: parts.train.user_ids}).join(users, on=USER_ID, how="left", maintain_order="left")
    return TrainView(
        catalogue=catalogue,
        features=features,
        encoder=encoder,
        items=encoder.items,
        users=encode_users(features, in_order),
        train=parts.train,
        validation=parts.validation,
        user_frame=users,
        seed=0,
        threads=1,
        device="cpu",
    )
