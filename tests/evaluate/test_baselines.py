"""The yardsticks against small cases computed another way."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

from recsys.data.interactions import Interactions
from recsys.data.splits import Split
from recsys.errors import MissingPartError
from recsys.evaluate.baselines import (
    BASELINES,
    EASE_MAX_ITEMS,
    IALS_MAX_ROWS,
    Baseline,
    FitData,
    Settings,
    fit_ease,
    fit_ials,
    fit_item_knn,
    fit_popularity,
    fit_recent_popularity,
)
from recsys.evaluate.tuning import tune
from recsys.evaluate.yardstick_models import YardstickModel, ages, binary, kept
from recsys.retrieval.channel import Channel
from recsys.retrieval.static_channel import StaticChannel
from recsys.types import Floats, RaggedRows, Users, offsets_of

DAY = 86_400_000


def interactions(*histories: list[int], times: list[int] | None = None) -> Interactions:
    rows = np.array([row for history in histories for row in history], np.int32)
    stamps = np.array(times if times is not None else np.arange(len(rows)), np.int64)
    return Interactions(np.arange(len(histories)), offsets_of([len(h) for h in histories]), rows, stamps)


def dense(train: Interactions, items: int) -> np.ndarray:
    return binary(train.ragged(), items).toarray().astype(np.float64)


def scored(model: YardstickModel, items: int, *histories: list[int]) -> Floats:
    """(B, N) what a yardstick makes of histories; of one that answers with lists, 0 where a row is not among them."""
    history = RaggedRows.of(histories)
    if not isinstance(model, Channel):
        return model.scores(history)
    nothing = RaggedRows.empty(len(history))
    users = Users(np.arange(len(history)), np.ones(len(history), np.bool_), {}, history, nothing)
    found, scores = model.recall(users, items), np.zeros((len(history), items), np.float32)
    scores[np.repeat(np.arange(len(history)), found.counts), found.rows] = found.scores
    return scores


HISTORIES = ([0, 1, 2], [0, 1], [1, 2, 3], [3, 0], [4])


def test_popularity_counts_training_events() -> None:
    data = FitData(interactions(*HISTORIES), 6, True)
    assert scored(fit_popularity(data, {}), 6, [])[0].tolist() == [3, 3, 2, 2, 1, 0]


def test_recent_popularity_counts_the_last_days_of_training_alone() -> None:
    train = interactions([0, 0, 1], [2], times=[0, 5 * DAY, 9 * DAY, 10 * DAY])
    model = fit_recent_popularity(FitData(train, 3, True), {"days": 2})
    assert scored(model, 3, [])[0].tolist() == [0, 1, 1]


def test_ages_count_back_from_the_newest() -> None:
    assert ages(RaggedRows.of([[7, 8, 9], [5]])).tolist() == [2, 1, 0, 0]


def test_item_knn_adds_the_cosines_of_kept_neighbours() -> None:
    data = FitData(interactions(*HISTORIES), 5, True)
    matrix = dense(data.train, 5)
    norms = np.linalg.norm(matrix, axis=0)
    cosine = matrix.T @ matrix / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0.0)
    everything = scored(fit_item_knn(data, {"neighbours": 4}), 5, [0, 3], [2])
    assert everything == pytest.approx(np.stack([cosine[0] + cosine[3], cosine[2]]), abs=1e-6)
    nearest = scored(fit_item_knn(data, {"neighbours": 1}), 5, [1])
    assert np.flatnonzero(nearest[0]).tolist() == [j for j in range(5) if cosine[j].argmax() == 1 and cosine[j, 1] > 0]


def test_ease_is_the_closed_form_of_its_paper() -> None:
    data = FitData(interactions(*HISTORIES), 5, True)
    matrix = dense(data.train, 5)
    inverse = np.linalg.inv(matrix.T @ matrix + 2.0 * np.eye(5))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    scores = scored(fit_ease(data, {"lambda": 2.0}), 5, *HISTORIES)
    assert scores == pytest.approx(matrix @ weights, abs=1e-5)


def test_ease_by_recency_weighs_each_item_by_its_age() -> None:
    data = FitData(interactions(*HISTORIES), 5, True)
    model = fit_ease(data, {"lambda": 2.0, "decay": 0.5})
    alone = {row: scored(model, 5, [row])[0] for row in (0, 1, 2)}
    both = scored(model, 5, [2, 0, 1])[0]
    assert both == pytest.approx(alone[1] + 0.5 * alone[0] + 0.25 * alone[2], abs=1e-6)


@pytest.mark.parametrize("fit", [fit_ease, fit_item_knn])
def test_an_item_had_twice_counts_once_where_order_is_ignored(fit: Callable[..., YardstickModel]) -> None:
    model = fit(FitData(interactions(*HISTORIES), 5, True), {"lambda": 2.0, "neighbours": 4})
    once, twice = scored(model, 5, [0, 1], [0, 1, 0])
    assert twice == pytest.approx(once)


def test_histories_keep_what_is_marked() -> None:
    some = kept(RaggedRows.of([[7, 8, 9], [], [5]]), np.array([True, False, True, False]))
    assert [some[b].tolist() for b in range(3)] == [[7, 9], [], []]


@pytest.mark.parametrize("pairs_at_once", [300, 1_000_000])
def test_item_knn_keeps_the_nearest_of_each_item_and_of_equals_the_lower_rows(
    monkeypatch: pytest.MonkeyPatch, pairs_at_once: int
) -> None:
    monkeypatch.setattr("recsys.evaluate.baselines._BLOCK_PAIRS", pairs_at_once)
    rng = np.random.default_rng(0)
    data = FitData(interactions(*(rng.permutation(40)[:5].tolist() for _ in range(40))), 40, True)
    matrix = dense(data.train, 40).astype(np.float32)
    norms = np.sqrt(matrix.sum(axis=0))
    cosine = matrix.T @ matrix / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0.0)
    expected = np.zeros_like(cosine)
    for item in range(40):
        nearest = np.argsort(-cosine[item], kind="stable")[:3]
        expected[nearest, item] = cosine[item, nearest]
    ties = [len(set(row[row > 0].tolist())) < (row > 0).sum() for row in cosine]
    assert all(ties)
    found = scored(fit_item_knn(data, {"neighbours": 3}), 40, *([row] for row in range(40)))
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: baseline.name)
def test_fitting_and_scoring_leave_sequences_as_they_were(baseline: Baseline) -> None:
    train = interactions([3, 1, 2], [2, 0], [4, 3, 0])
    data = FitData(train, 6, True)
    model = baseline.fit(data, {**baseline.grid[0], "factors": 4})
    scored(model, 6, *([3, 1, 2], [2, 0], [4, 3, 0]))
    assert train.rows.tolist() == [3, 1, 2, 2, 0, 4, 3, 0]


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: baseline.name)
def test_every_yardstick_stands_a_user_without_history(baseline: Baseline) -> None:
    model = baseline.fit(FitData(interactions(*HISTORIES), 6, True), {**baseline.grid[0], "factors": 4})
    scores = scored(model, 6, [], [1])
    assert scores.shape == (2, 6)
    assert np.isfinite(scores).all()


def test_ials_puts_the_other_items_of_a_cluster_first() -> None:
    clusters = [[0, 1, 2, 3], [4, 5, 6, 7]]
    histories = [[row for row in cluster if row != left_out] for cluster in clusters for left_out in cluster] * 5
    settings = {"factors": 4, "regularisation": 0.1, "alpha": 5.0, "iterations": 15}
    scores = scored(fit_ials(FitData(interactions(*histories), 8, False), settings), 8, [0, 1], [5, 6])
    assert set(np.argsort(-scores[0])[:4]) == {0, 1, 2, 3}
    assert set(np.argsort(-scores[1])[:4]) == {4, 5, 6, 7}


def test_ials_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit.als", None)
    with pytest.raises(MissingPartError, match=r"implicit.*pip install"):
        fit_ials(FitData(interactions([0]), 1, False), {})


def test_what_data_do_not_allow_is_refused_with_the_reason() -> None:
    named = {baseline.name: baseline for baseline in BASELINES}
    order_only = FitData(interactions([0]), 10, real_times=False)
    large = FitData(interactions([0]), EASE_MAX_ITEMS + 1, real_times=True)
    assert "no times" in str(named["recent_popularity"].refusal(order_only))
    assert "20,001 items" in str(named["ease"].refusal(large))
    assert named["ease"].refusal(order_only) is None
    assert "300,001 users and items" in str(named["ials"].refusal(FitData(interactions([0]), IALS_MAX_ROWS, True)))
    assert named["ials"].refusal(large) is None


def test_settings_are_those_that_are_best_on_validation(last: Split) -> None:
    """Of two static rankings, one with the validation targets first, one with the test targets first."""
    assert last.validation is not None
    assert last.test is not None
    wanted = {1.0: last.test.target, 2.0: last.validation.target}

    def fit(data: FitData, settings: Settings) -> YardstickModel:
        scores = np.zeros(data.items, np.float32)
        scores[wanted[settings["first"]]] = 1.0
        return StaticChannel("static", scores)

    baseline = Baseline("static", "static", fit, ({"first": 1.0}, {"first": 2.0}))
    assert tune(baseline, FitData(last.train, 8, True), last.validation).note.startswith("first 2: best of 2")
