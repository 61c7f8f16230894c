"""What a recipe may be fitted on: encoded items and users, training sequences, a validation set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.data.catalogue import Catalogue
from recsys.data.interactions import EvaluationSet, Interactions
from recsys.features.feature_set import FeatureSet
from recsys.features.online import OnlineEncoder
from recsys.train.ranks import ALONE, Ranks

Codes = Mapping[str, NDArray[np.integer[Any]]]
"""Encoded columns by feature name: (n,) or (n, values) codes, 0 = missing, 1 = unseen."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainView:
    """Everything a recipe sees; nothing after the hold-out is in it.

    Attributes:
        catalogue: the N items, addressed by row.
        features: how raw attributes become codes.
        encoder: the serving encoder, so that validation sees what a server sees.
        items: encoded item attributes, N rows each.
        users: encoded user attributes, aligned with `train.user_ids`.
        train: the sequences to fit on, oldest to newest.
        validation: targets taken from what remains after the hold-out; None when there are none.
        user_frame: raw attributes aligned with `validation.sequences.user_ids` (and `train.user_ids`).
        chosen: what the fit of the held-out twin returned, for a refit, which has nothing to choose by; else empty.
        seed: of weights, batches and dropout.
        threads: CPU threads to use.
        device: "auto", "cpu" or "cuda".
        start: bundle of an earlier run to begin from, one that saw nothing of what is held out here; None = scratch.
        ranks: the workers that fit together; rank 0 alone writes what a fit leaves.
    """

    catalogue: Catalogue
    features: FeatureSet
    encoder: OnlineEncoder
    items: Codes
    users: Codes
    train: Interactions
    validation: EvaluationSet | None
    user_frame: pl.DataFrame | None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    threads: int = 1
    device: str = "auto"
    start: Path | None = None
    ranks: Ranks = ALONE

    @property
    def epochs(self) -> int | None:
        """The number of epochs that the twin chose; None = choose on validation."""
        epochs = self.chosen.get("epochs")
        return None if epochs is None else int(epochs)
