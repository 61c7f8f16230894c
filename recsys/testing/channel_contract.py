"""What every channel owes the cascade: a new retriever passes by subclassing one class."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from recsys.retrieval.channel import Channel
from recsys.types import Candidates, RaggedRows, RowMask, Users, offsets_of


def users_with_histories(histories: list[list[int]], excluded: list[list[int]] | None = None) -> Users:
    """Users 1, 2, 3… with the given history rows; what is excluded is the history unless it is given."""
    count = len(histories)
    return Users(
        np.arange(1, count + 1, dtype=np.int64),
        np.ones(count, np.bool_),
        {},
        RaggedRows.of(histories),
        RaggedRows.of(histories if excluded is None else excluded),
    )


class ChannelContract:
    """Subclass with fixtures `channel` and `size`, the number of rows of its catalogue (at least 30)."""

    reaches_everything: ClassVar[bool] = True
    """Whether the channel can return any row for any user, as opposed to some rows for some users."""

    @pytest.fixture
    def users(self, size: int) -> Users:
        """Histories of several lengths, none at all among them, and exclusions beyond the history."""
        rng = np.random.default_rng(1)
        histories = [rng.permutation(size)[:n].tolist() for n in (3, 0, 1, 12, 5)]
        excluded = [history + rng.permutation(size)[: 3 * b].tolist() for b, history in enumerate(histories)]
        return users_with_histories(histories, excluded)

    def test_it_is_a_channel_with_a_name(self, channel: Channel) -> None:
        assert isinstance(channel, Channel)
        assert channel.name

    def test_candidates_are_distinct_rows_best_first(self, channel: Channel, users: Users, size: int) -> None:
        answer = channel.recall(users, 10)
        assert len(answer) == len(users)
        assert answer.rows.dtype == np.int32
        assert answer.scores.dtype == np.float32
        assert (answer.channels == 1).all()
        assert answer.counts.sum() == len(answer.rows) == len(answer.scores) == len(answer.channels)
        for b in range(len(users)):
            rows, scores = answer.of(b)
            assert len(rows) <= 10
            assert len(set(rows.tolist())) == len(rows)
            assert ((rows >= 0) & (rows < size)).all()
            assert (np.diff(scores) <= 0).all()

    def test_it_finds_something(self, channel: Channel, users: Users) -> None:
        assert len(channel.recall(users, 10).rows)

    def test_excluded_rows_never_come_back(self, channel: Channel, users: Users, size: int) -> None:
        answer = channel.recall(users, size)
        for b in range(len(users)):
            assert not set(answer.of(b)[0].tolist()) & set(users.excluded[b].tolist())

    def test_only_allowed_rows_come_back(self, channel: Channel, users: Users, size: int) -> None:
        everything = channel.recall(users, size)
        allowed = np.arange(size) % 3 == 0
        some = channel.recall(users, size, RowMask(allowed))
        for b in range(len(users)):
            rows, _ = everything.of(b)
            assert some.of(b)[0].tolist() == rows[allowed[rows]].tolist()

    def test_the_next_best_replace_what_is_excluded(self, channel: Channel, users: Users, size: int) -> None:
        everything = channel.recall(users, size)
        better = [everything.of(b)[0][:2] for b in range(len(users))]
        lists = [np.concatenate((users.excluded[b], better[b])) for b in range(len(users))]
        without = Users(users.ids, users.known, users.attributes, users.history, RaggedRows.of(lists))
        answer = channel.recall(without, 5)
        for b in range(len(users)):
            assert answer.of(b)[0].tolist() == everything.of(b)[0][2:7].tolist()

    def test_all_eligible_rows_come_back_when_k_asks_for_them(self, channel: Channel, users: Users, size: int) -> None:
        answer = channel.recall(users, size + 5)
        for b in range(len(users)):
            eligible = set(range(size)) - set(users.excluded[b].tolist())
            found = set(answer.of(b)[0].tolist())
            assert found == eligible if self.reaches_everything else found <= eligible

    def test_a_smaller_k_is_a_prefix(self, channel: Channel, users: Users) -> None:
        ten, three = channel.recall(users, 10), channel.recall(users, 3)
        for b in range(len(users)):
            assert three.of(b)[0].tolist() == ten.of(b)[0][:3].tolist()

    def test_a_batch_is_its_users_one_by_one(self, channel: Channel, users: Users) -> None:
        together = channel.recall(users, 10)
        for b in range(len(users)):
            alone = channel.recall(users.slice(b, b + 1), 10)
            assert alone.rows.tolist() == together.of(b)[0].tolist()
            np.testing.assert_allclose(alone.scores, together.of(b)[1], rtol=1e-5, atol=1e-6)

    def test_nothing_eligible_gives_nothing(self, channel: Channel, users: Users, size: int) -> None:
        assert not len(channel.recall(users, 5, RowMask(np.zeros(size, bool))).rows)
        everything = np.tile(np.arange(size, dtype=np.int32), len(users))
        excluded = RaggedRows(everything, offsets_of([size] * len(users)))
        hidden = Users(users.ids, users.known, users.attributes, users.history, excluded)
        assert channel.recall(hidden, 5).counts.tolist() == [0] * len(users)

    def test_no_users_get_no_answer(self, channel: Channel, users: Users) -> None:
        answer = channel.recall(users.slice(0, 0), 5)
        assert isinstance(answer, Candidates)
        assert len(answer) == 0
