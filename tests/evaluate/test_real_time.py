"""Real time: what a model is not told it cannot use, and nothing else differs between the columns."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from recsys.data.interactions import EvaluationSet, Interactions
from recsys.evaluate.real_time import BEHIND, LEAST_HISTORY, RealTime, real_time, unaware
from recsys.evaluate.results import Quiet
from recsys.evaluate.section import Html
from recsys.retrieval.static_channel import StaticChannel
from recsys.types import Candidates, Deadline, RaggedRows, RowMask, Users, offsets_of

ITEMS = 400


class NextRow:
    """Recommends the row after the newest one it knows, unless the user has it: right if and only if it knows all."""

    name = "next_row"

    def __init__(self) -> None:
        self.excluded: list[list[list[int]]] = []

    def recall(
        self, users: Users, k: int, allowed: RowMask | None = None, deadline: Deadline | None = None
    ) -> Candidates:
        self.excluded.append([users.excluded[b].tolist() for b in range(len(users))])
        rows = np.array([users.history[b][-1:].sum() + 1 for b in range(len(users))])
        rows = np.array([-1 if row in users.excluded[b] else row for b, row in enumerate(rows)])
        return Candidates.from_matrix(rows[:, None], np.ones((len(users), 1), np.float32))


def ascending(lengths: list[int]) -> EvaluationSet:
    """Users who take rows in ascending order; the target is always the one after the newest."""
    rows = np.concatenate([np.arange(length + 1, dtype=np.int32) + 40 * u for u, length in enumerate(lengths)])
    offsets = offsets_of([length + 1 for length in lengths])
    sequences = Interactions(np.arange(len(lengths)), offsets, rows, np.arange(len(rows), dtype=np.int64))
    ends = np.array(lengths, np.int32)
    return EvaluationSet(sequences, np.arange(len(lengths), dtype=np.int32), ends, rows[offsets[1:] - 1])


def asked(events: EvaluationSet, *channels: NextRow | StaticChannel) -> RealTime:
    return real_time({channel.name: channel for channel in channels}, events, ITEMS, None, Quiet())


def test_a_model_that_has_not_heard_of_the_newest_events_does_not_know_them() -> None:
    history = RaggedRows.of([[1, 2, 3], [4], []])
    users = Users(np.arange(3), np.ones(3, np.bool_), {}, history, history)
    later = unaware(users, 2)
    assert [later.history[b].tolist() for b in range(3)] == [[1], [], []]
    assert later.excluded is history
    assert unaware(users, 0).history.values.tolist() == history.values.tolist()


def test_what_only_the_newest_event_tells_is_all_gain() -> None:
    moments = asked(ascending([30, 25, 38]), NextRow()).channels["next_row"]
    assert [one.behind for one in moments] == list(BEHIND)
    assert [one.metrics["recall@50"] for one in moments] == [0.0, 0.0, 0.0, 1.0]
    assert [one.gain.get("hr@10") for one in moments] == [*[(1.0, (1.0, 1.0))] * 3, None]


def test_only_what_is_known_differs_between_the_columns() -> None:
    channel = NextRow()
    asked(ascending([30, 25]), channel)
    assert len(channel.excluded) == len(BEHIND)
    assert all(excluded == channel.excluded[0] for excluded in channel.excluded)
    assert [len(rows) for rows in channel.excluded[0]] == [30, 25]


def test_short_histories_are_in_no_column() -> None:
    found = asked(ascending([30, LEAST_HISTORY - 1, 25]), NextRow())
    assert (found.events, found.users) == (2, 2)
    none = asked(ascending([5, 6]), NextRow())
    assert none.as_json()["events"] == 0
    assert "No history" in none.section().intro


def test_what_answers_everybody_alike_gains_nothing_and_is_left_out() -> None:
    popularity = StaticChannel("popularity", np.zeros(ITEMS, np.float32))
    assert list(asked(ascending([30]), NextRow(), popularity).channels) == ["next_row"]
    assert "No channel reads the history" in asked(ascending([30]), popularity).section().intro


def test_the_section_draws_a_line_for_every_channel() -> None:
    found = asked(ascending([30, 25]), NextRow())
    charts, table, _ = found.section().blocks
    assert isinstance(charts, Html)
    drawn = charts.markup[charts.markup.index("<svg") : charts.markup.index("</svg>") + len("</svg>")]
    words = [part.text for part in ElementTree.fromstring(drawn).iter("text")]
    assert "nightly" in words
    assert "next_row" in words
    assert table.rows[0][:5] == ["next_row", 0.0, 0.0, 0.0, 1.0]


def test_the_entry_of_report_json_has_intervals_and_gains() -> None:
    first, *_, last = asked(ascending([30, 25]), NextRow()).as_json()["channels"]["next_row"]
    assert first["gain_ci95"]["recall@50"] == pytest.approx([1.0, 1.0])
    assert last["gain"] == {}
