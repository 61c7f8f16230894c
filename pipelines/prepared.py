"""What the step `prepare` leaves: catalogue, fitted features, sequences and codes, memory-mapped by every fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.bundle.manifest import FEATURES_FOLDER
from recsys.columns import ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.config import Config
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset, IdKind
from recsys.data.interactions import EvaluationSet, Interactions
from recsys.data.splits import Holdout, split
from recsys.features.definition import FeatureDefinition
from recsys.features.feature_set import FeatureSet
from recsys.features.offline import encode_items, encode_users
from recsys.features.online import OnlineEncoder
from recsys.files import write_text
from recsys.train.view import TrainView
from recsys.types import RowMask

_INFO: Final = "prepared.json"
_USERS: Final = "users.arrow"


class PreparedInfo(Config):
    """What a bundle's manifest must say of the data.

    Attributes:
        dataset, content_hash: the dataset's name and hash.
        user_ids: what its users' ids are.
        holdout, protocol, cut_off_ms: the split.
        everything: whether the training part is all events given (a refit).
        train, validation: interactions to fit on, and targets to choose by.
    """

    dataset: str
    content_hash: str
    user_ids: IdKind
    holdout: str
    protocol: Literal["leave_one_out", "global_time"] | None
    cut_off_ms: int | None
    everything: bool
    train: int
    validation: int


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """The opened output of `prepare`; arrays are memory-mapped."""

    path: Path
    info: PreparedInfo
    catalogue: Catalogue
    features: FeatureSet

    @classmethod
    def open(cls, path: Path) -> Prepared:
        """Opens the output of `prepare` in directory `path`."""
        info = PreparedInfo.model_validate_json((path / _INFO).read_bytes())
        return cls(path, info, Catalogue.open(path), FeatureSet.open(path / FEATURES_FOLDER))

    def known(self) -> Interactions:
        """What a server may know of its users: all interactions but the test."""
        return _load_interactions(self.path / "known")

    def users(self) -> pl.DataFrame:
        """Raw attributes of all users, sorted by user_id."""
        return pl.read_ipc(self.path / _USERS)

    def view(
        self, *, seed: int, threads: int, device: str, chosen: Mapping[str, Any] = MappingProxyType({})
    ) -> TrainView:
        """What a recipe is fitted on.

        Args:
            seed: of weights and batches.
            threads: CPU threads to use.
            device: "cpu" or "cuda".
            chosen: what the fit of a refit's held-out twin returned.
        """
        validation = self.path / "validation"
        return TrainView(
            catalogue=self.catalogue,
            features=self.features,
            encoder=OnlineEncoder(self.features, self.catalogue),
            items=_load_arrays(self.path / "encoded_items"),
            users=_load_arrays(self.path / "encoded_users"),
            train=_load_interactions(self.path / "train"),
            validation=_load_evaluation(validation) if validation.is_dir() else None,
            user_frame=self.users(),
            chosen=chosen,
            seed=seed,
            threads=threads,
            device=device,
        )


def prepare(
    dataset: Dataset, holdout: Holdout, definition: FeatureDefinition, out: Path, *, everything: bool
) -> PreparedInfo:
    """Splits a dataset, fits and encodes the features, and writes it all below `out`.

    Args:
        dataset: the dataset.
        holdout: what is kept back.
        definition: the features.
        out: an existing directory.
        everything: fit on all events given, with nothing to validate on (a refit).

    Raises:
        DataError: when the data cannot be split so, or a feature's column is missing.
    """
    catalogue = Catalogue.from_dataset(dataset)
    parts = split(dataset, catalogue, holdout)
    train = parts.everything if everything else parts.train
    users = dataset.users()
    features = FeatureSet.fit(definition, items=catalogue.frame, users=users, events=_positives(train, catalogue))
    catalogue.save(out)
    features.save(out / FEATURES_FOLDER)
    users.rechunk().write_ipc(out / _USERS, compression="uncompressed")
    aligned = pl.DataFrame({USER_ID: train.user_ids}).join(users, on=USER_ID, how="left", maintain_order="left")
    _save_arrays(out / "encoded_items", encode_items(features, catalogue.frame))
    _save_arrays(out / "encoded_users", encode_users(features, aligned))
    _save_interactions(out / "train", train)
    _save_interactions(out / "known", parts.everything if everything else parts.known)
    if not everything and parts.validation is not None:
        _save_evaluation(out / "validation", parts.validation)
    info = PreparedInfo(
        dataset=dataset.info.name,
        content_hash=dataset.info.content_hash,
        user_ids=dataset.info.user_ids,
        holdout="none" if everything else str(holdout),
        protocol=None if everything else holdout.protocol,
        cut_off_ms=None if everything else parts.cut_off_ms,
        everything=everything,
        train=train.size,
        validation=0 if everything or parts.validation is None else len(parts.validation),
    )
    write_text(out / _INFO, info.model_dump_json(indent=2) + "\n")
    return info


def _positives(train: Interactions, catalogue: Catalogue) -> pl.DataFrame:
    """The training clicks and conversions as a table, for vocabularies."""
    return pl.DataFrame(
        {
            USER_ID: train.user_ids[train.user_of()],
            ITEM_ID: catalogue.ids[train.rows],
            TIMESTAMP_MS: train.timestamps_ms,
        }
    )


def _save_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def _load_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted(folder.glob("*.npy"))}


def _save_interactions(folder: Path, interactions: Interactions) -> None:
    _save_arrays(
        folder,
        {
            "user_ids": interactions.user_ids,
            "offsets": interactions.offsets,
            "rows": interactions.rows,
            "timestamps_ms": interactions.timestamps_ms,
        },
    )


def _load_interactions(folder: Path) -> Interactions:
    return Interactions(**_load_arrays(folder))


def _save_evaluation(folder: Path, targets: EvaluationSet) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "user": targets.user,
        "history_end": targets.history_end,
        "target": targets.target,
    }
    if targets.eligible is not None:
        arrays["eligible"] = targets.eligible.allowed
    _save_arrays(folder, arrays)
    _save_interactions(folder / "sequences", targets.sequences)
    write_text(folder / "left_out.json", f'{{"dropped": {targets.dropped}, "repeated": {targets.repeated}}}\n')


def _load_evaluation(folder: Path) -> EvaluationSet:
    arrays = _load_arrays(folder)
    left_out = LeftOut.model_validate_json((folder / "left_out.json").read_bytes())
    return EvaluationSet(
        sequences=_load_interactions(folder / "sequences"),
        user=arrays["user"],
        history_end=arrays["history_end"],
        target=arrays["target"],
        eligible=RowMask(arrays["eligible"]) if "eligible" in arrays else None,
        dropped=left_out.dropped,
        repeated=left_out.repeated,
    )


class LeftOut(Config):
    """Targets of an evaluation set that were not taken, by reason."""

    dropped: int
    repeated: int
