from __future__ import annotations

from pathlib import Path

import pytest

from recsys.data.dataset import write_dataset
from recsys.data.describe import describe
from recsys.testing.toy import toy_events, write_toy


def test_the_toy_set_in_figures(tmp_path: Path) -> None:
    said = describe(write_toy(tmp_path / "toy"))
    assert said.density == pytest.approx(20 / 48)
    assert (said.history_lengths["0"], said.history_lengths["0.5"], said.history_lengths["1"]) == (1, 3.5, 5)
    assert (said.first, said.last) == ("2020-09-13T12:26:41+00:00", "2020-09-13T13:50:06+00:00")
    assert [(c.name, c.kind, c.distinct, c.missing, c.example) for c in said.items] == [
        ("title", "text", 8, 0, "Alien"),
        ("year", "integer", 7, 1, "1979"),
        ("price", "number", 7, 0, "1.0"),
        ("genres", "list of text", 6, 0, "Horror|SciFi"),
    ]
    assert [(c.name, c.missing) for c in said.users] == [("country", 0), ("age", 1)]
    assert [(event["user_id"], event["title"]) for event in said.first_events[:2]] == [(1, "Heat"), (2, "Heat")]


def test_order_only_data_have_no_dates(tmp_path: Path) -> None:
    said = describe(write_dataset(tmp_path / "d", events=toy_events(), name="d", time="order"))
    assert (said.first, said.last) == (None, None)
