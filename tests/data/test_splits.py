from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.columns import CREATED_MS, EVENT_ID, ITEM_ID, TIMESTAMP_MS, USER_ID
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset, write_dataset
from recsys.data.interactions import EvaluationSet, Interactions
from recsys.data.splits import Holdout, Split, split
from recsys.errors import DataError, UsageError
from recsys.testing.toy import EPOCH_MS, toy_events, toy_items, write_toy


def divide(dataset: Dataset, holdout: str) -> Split:
    return split(dataset, Catalogue.from_dataset(dataset), Holdout.parse(holdout))


def sequences(interactions: Interactions) -> dict[int, list[int]]:
    return {int(user): interactions.of(i).tolist() for i, user in enumerate(interactions.user_ids)}


def targets(part: EvaluationSet | None) -> list[tuple[int, list[int], int]]:
    """(user id, history, target) of each target."""
    assert part is not None
    users = part.users(0, len(part))
    return [(int(users.ids[m]), users.history[m].tolist(), int(part.target[m])) for m in range(len(part))]


def random_dataset(path: Path, events: list[tuple[int, int, int]]) -> Dataset:
    frame = pl.DataFrame(events, schema=[USER_ID, ITEM_ID, TIMESTAMP_MS], orient="row")
    return write_dataset(path, events=frame, name="random", time="real")


@pytest.mark.parametrize(
    ("text", "protocol"),
    [("none", None), ("last", "leave_one_out"), ("time:0.1", "global_time"), ("time:0.25", "global_time")],
)
def test_a_holdout_reads_what_it_writes(text: str, protocol: str | None) -> None:
    assert str(Holdout.parse(text)) == text
    assert Holdout.parse(text).protocol == protocol


@pytest.mark.parametrize(
    "text", ["", "first", "time", "time:", "time:0", "time:0.5", "time:-0.1", "time:x", "last:0.1"]
)
def test_another_holdout_is_refused_with_what_may_be_written(text: str) -> None:
    with pytest.raises(UsageError, match="none, last, or time:"):
        Holdout.parse(text)


def test_leave_one_out_of_the_toy_set(tmp_path: Path) -> None:
    parts = divide(write_toy(tmp_path / "toy"), "last")
    assert sequences(parts.train) == {1: [0, 1], 2: [0], 3: [1, 2, 3], 4: [5, 6], 5: [0], 6: [2, 3, 4]}
    assert targets(parts.validation) == [(1, [0, 1], 2), (2, [0], 1), (3, [1, 2, 3], 4), (6, [2, 3, 4], 5)]
    assert targets(parts.test) == [(1, [0, 1, 2], 3), (2, [0, 1], 2), (3, [1, 2, 3, 4], 5), (6, [2, 3, 4, 5], 6)]
    assert parts.cut_off_ms is None
    assert parts.test.eligible is None


def test_no_holdout_validates_on_the_last_and_trains_on_the_rest(tmp_path: Path) -> None:
    parts = divide(write_toy(tmp_path / "toy"), "none")
    assert parts.test is None
    assert [(user, target) for user, _, target in targets(parts.validation)] == [(1, 3), (2, 2), (3, 5), (4, 6), (6, 6)]
    assert parts.train.size + len(parts.validation) == parts.everything.size == 20


def test_training_events_of_leave_one_out_end_before_the_held_out_ones(tmp_path: Path) -> None:
    dataset = write_toy(tmp_path / "toy")
    parts = divide(dataset, "last")
    kept = parts.train_events.collect()
    assert kept.columns == dataset.events().collect_schema().names()
    trained = Interactions.from_events(kept, Catalogue.from_dataset(dataset))
    assert sequences(trained) == sequences(parts.train)
    assert kept.filter(pl.col("event") == "impression").height == 4


def test_the_time_split_of_the_toy_set(tmp_path: Path) -> None:
    # 24 events: t2 is the time of the 20th, so 19 lie before it, and t1 is the time of the 16th of those.
    parts = divide(write_toy(tmp_path / "toy"), "time:0.2")
    assert parts.cut_off_ms == EPOCH_MS + 3_001_000
    assert targets(parts.validation) == [(1, [0, 1], 2), (2, [0, 1], 2), (3, [1, 2], 3)]
    assert targets(parts.test) == [(1, [0, 1, 2], 3), (3, [1, 2, 3, 4], 5), (6, [2, 3, 4], 5), (6, [2, 3, 4, 5], 6)]
    assert parts.test.dropped == 1  # user 3's click on item 50, which nobody had met by then
    assert parts.validation.dropped == 1
    assert np.flatnonzero(~parts.test.eligible.allowed).tolist() == [4]


def test_an_item_created_before_the_cut_off_is_eligible_without_events(tmp_path: Path) -> None:
    created = {10: EPOCH_MS, 50: EPOCH_MS, 80: EPOCH_MS + 10**9}
    items = toy_items().with_columns(pl.col(ITEM_ID).replace_strict(created, default=None).alias(CREATED_MS))
    dataset = write_dataset(tmp_path / "toy", events=toy_events(), items=items, name="toy", time="real")
    parts = divide(dataset, "time:0.2")
    assert parts.test.eligible.allowed.tolist() == [True] * 8  # 80 was shown before the cut-off
    assert parts.test.dropped == 0


def test_order_only_data_refuse_a_time_split(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", events=toy_events(), name="d", time="order")
    with pytest.raises(DataError, match=r"only the order.*use --holdout last"):
        divide(dataset, "time:0.1")
    assert len(divide(dataset, "last").test) == 4


def test_one_instant_for_all_events_refuses_a_time_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leaves nothing to train on"):
        divide(random_dataset(tmp_path / "d", [(u, i, 7) for u in range(5) for i in range(5)]), "time:0.1")


def test_histories_too_short_to_hold_anything_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 3 clicks"):
        divide(random_dataset(tmp_path / "d", [(1, 1, 1), (1, 2, 2), (2, 1, 3)]), "last")


def test_a_repeated_target_is_left_out_and_counted(tmp_path: Path) -> None:
    parts = divide(
        random_dataset(tmp_path / "d", [(1, 5, 1), (1, 6, 2), (1, 7, 3), (1, 5, 4), *[(2, i, i) for i in range(4)]]),
        "last",
    )
    assert [user for user, _, _ in targets(parts.test)] == [2]
    assert (parts.test.repeated, parts.test.dropped) == (1, 0)
    assert [user for user, _, _ in targets(parts.validation)] == [1, 2]


events = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 8), st.integers(0, 40)), min_size=12, max_size=60)


@given(events=events, holdout=st.sampled_from(["none", "last", "time:0.1", "time:0.3"]))
@settings(max_examples=40, deadline=None)
def test_every_event_is_in_exactly_one_part(events: list[tuple[int, int, int]], holdout: str) -> None:
    with TemporaryDirectory() as folder:
        dataset = random_dataset(Path(folder) / "d", events)
        try:
            parts = divide(dataset, holdout)
        except DataError:
            return
        held_out = [part for part in (parts.validation, parts.test) if part is not None]
        held = sum(len(part) + part.dropped + part.repeated for part in held_out)
        assert parts.everything.size == len(events)
        assert parts.train.size + held == len(events)
        assert parts.train_events.collect().height == parts.train.size


@given(events=events, holdout=st.sampled_from(["none", "last", "time:0.1", "time:0.3"]))
@settings(max_examples=40, deadline=None)
def test_what_is_predicted_comes_after_what_is_known(events: list[tuple[int, int, int]], holdout: str) -> None:
    with TemporaryDirectory() as folder:
        dataset = random_dataset(Path(folder) / "d", events)
        try:
            parts = divide(dataset, holdout)
        except DataError:
            return
        trained = set(parts.train_events.collect()[EVENT_ID].to_list())
        ordered = dataset.events().collect().sort(USER_ID, TIMESTAMP_MS, EVENT_ID)
        everything = parts.everything
        for part in (parts.validation, parts.test):
            if part is None:
                continue
            at = everything.offsets[part.user] + part.history_end
            assert (everything.rows[at] == part.target).all()
            assert not trained & set(ordered[EVENT_ID].gather(at).to_list())
            users = part.users(0, len(part))
            for m in range(len(part)):
                assert part.target[m] not in users.excluded[m]
                before = everything.timestamps_ms[everything.offsets[part.user[m]] : at[m]]
                assert len(before) == len(users.history[m])
                assert (before <= everything.timestamps_ms[at[m]]).all()


@given(events=events)
@settings(max_examples=30, deadline=None)
def test_a_time_split_learns_nothing_from_after_its_cut_off(events: list[tuple[int, int, int]]) -> None:
    with TemporaryDirectory() as folder:
        try:
            parts = divide(random_dataset(Path(folder) / "d", events), "time:0.2")
        except DataError:
            return
        assert parts.train.timestamps_ms.max() < parts.cut_off_ms
        at = parts.everything.offsets[parts.validation.user] + parts.validation.history_end
        assert parts.everything.timestamps_ms[at].min() >= parts.cut_off_ms
        assert parts.validation.eligible.allowed[parts.validation.target].all()
        assert parts.test.eligible.allowed[parts.test.target].all()


@pytest.mark.data
def test_leave_one_out_of_ml_1m_holds_out_one_event_of_every_user(shared_data: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(shared_data / "ml-1m" / "interactions.parquet")
    events = rows.select(
        pl.col("user").alias(USER_ID), pl.col("item").alias(ITEM_ID), pl.col("position").alias(TIMESTAMP_MS)
    )
    parts = divide(write_dataset(tmp_path / "d", events=events, name="ml-1m", time="order"), "last")
    last = rows.sort("user", "position").group_by("user", maintain_order=True).last()
    assert len(parts.test) == 6040
    assert parts.train.size == 999_611 - 2 * 6040
    assert (parts.test.target + 1).tolist() == last["item"].to_list()
