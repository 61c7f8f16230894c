"""What a fit opens is what the split and the features of the dataset say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.prepared import Prepared, prepare
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.interactions import Interactions
from recsys.data.splits import Holdout, split
from recsys.features.auto import infer_definition
from recsys.features.offline import encode_users
from recsys.testing.planted import Planted, write_planted
from recsys.types import RaggedRows


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_planted(tmp_path_factory.mktemp("planted") / "data", Planted(users=50, items=30, mean_length=8))


def prepared(dataset: Dataset, out: Path, holdout: str, *, everything: bool = False) -> Prepared:
    out.mkdir()
    prepare(dataset, Holdout.parse(holdout), infer_definition(dataset), out, everything=everything)
    return Prepared.open(out)


def assert_same(left: Interactions, right: Interactions) -> None:
    for name in ("user_ids", "offsets", "rows", "timestamps_ms"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


@pytest.mark.parametrize("holdout", ["last", "time:0.2"])
def test_a_view_holds_the_split(dataset: Dataset, tmp_path: Path, holdout: str) -> None:
    parts = split(dataset, Catalogue.from_dataset(dataset), Holdout.parse(holdout))
    data = prepared(dataset, tmp_path / "out", holdout)
    view = data.view(seed=0, threads=1, device="cpu")
    assert_same(view.train, parts.train)
    assert_same(data.known(), parts.known)
    assert view.validation is not None
    assert parts.validation is not None
    for name in ("user", "history_end", "target", "dropped", "repeated"):
        np.testing.assert_array_equal(getattr(view.validation, name), getattr(parts.validation, name))
    assert (view.validation.eligible is None) == (parts.validation.eligible is None)
    assert_same(view.validation.sequences, parts.validation.sequences)


def test_codes_are_aligned_with_items_and_training_users(dataset: Dataset, tmp_path: Path) -> None:
    view = prepared(dataset, tmp_path / "out", "time:0.2").view(seed=0, threads=1, device="cpu")
    for name, codes in view.items.items():
        np.testing.assert_array_equal(codes, view.encoder.items[name])
    user = 3
    alone = dataset.users().filter(pl.col("user_id") == int(view.train.user_ids[user]))
    expected = encode_users(view.features, alone)
    assert set(view.users) == set(expected)
    for name, codes in view.users.items():
        assert len(codes) == len(view.train)
        np.testing.assert_array_equal(codes[user], expected[name][0])


def test_vocabularies_know_nothing_of_held_out_events(dataset: Dataset, tmp_path: Path) -> None:
    data = prepared(dataset, tmp_path / "out", "time:0.4")
    train = data.view(seed=0, threads=1, device="cpu").train
    assert len(data.features.items) == len(np.unique(train.rows))


def test_a_refit_sees_everything_and_has_nothing_to_choose_by(dataset: Dataset, tmp_path: Path) -> None:
    everything = Interactions.from_events(dataset.events(), Catalogue.from_dataset(dataset))
    data = prepared(dataset, tmp_path / "out", "none", everything=True)
    view = data.view(seed=0, threads=1, device="cpu", chosen={"epochs": 7})
    assert_same(view.train, everything)
    assert_same(data.known(), everything)
    assert view.validation is None
    assert view.epochs == 7


def test_what_is_known_before_the_test_ends_where_each_test_history_ends(dataset: Dataset) -> None:
    parts = split(dataset, Catalogue.from_dataset(dataset), Holdout.parse("last"))
    assert parts.test is not None
    histories = parts.test.users(0, len(parts.test)).history
    at = np.searchsorted(parts.known.user_ids, parts.test.user_ids)
    known = RaggedRows.of([parts.known.of(int(user)) for user in at])
    np.testing.assert_array_equal(histories.values, known.values)
