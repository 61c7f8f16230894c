"""A training view over a planted world, for the tests of recipes: made the way a pipeline makes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from recsys.columns import ITEM_ID, USER_ID
from recsys.data.catalogue import Catalogue
from recsys.data.splits import Holdout, split
from recsys.features.auto import infer_definition
from recsys.features.feature_set import FeatureSet
from recsys.features.offline import encode_users
from recsys.features.online import OnlineEncoder
from recsys.testing.planted import Planted, write_planted
from recsys.train.view import TrainView


def planted_view(
    folder: Path, world: Planted, holdout: str = "last", unseen: Sequence[int] = (), without: Sequence[int] = ()
) -> TrainView:
    """The view of a fit that chooses its epochs on validation.

    Args:
        folder: the dataset is written there.
        world: what is planted.
        holdout: as on the command line.
        unseen: catalogue rows that training does not show; validation does.
        without: ids of items that the dataset does not know.
    """
    dataset = write_planted(folder, world, without)
    catalogue = Catalogue.from_dataset(dataset)
    parts = split(dataset, catalogue, Holdout.parse(holdout))
    users = dataset.users()
    train = parts.train.where(~np.isin(parts.train.rows, unseen))
    events = parts.train_events.filter(~pl.col(ITEM_ID).is_in(catalogue.ids[list(unseen)])).collect()
    features = FeatureSet.fit(infer_definition(dataset), items=dataset.items(), users=users, events=events)
    encoder = OnlineEncoder(features, catalogue)
    in_order = pl.DataFrame({USER_ID: train.user_ids}).join(users, on=USER_ID, how="left", maintain_order="left")
    return TrainView(
        catalogue=catalogue,
        features=features,
        encoder=encoder,
        items=encoder.items,
        users=encode_users(features, in_order),
        train=train,
        validation=parts.validation,
        user_frame=users,
        seed=0,
        threads=1,
        device="cpu",
    )
