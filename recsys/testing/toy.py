"""A dataset that a person can check by hand: six users, eight films, twenty-four events.

    user  history, oldest to newest (timestamps 1000, 2000, … seconds after the epoch of the set)
    1     10 20 30 40
    2     10 20 30
    3     20 30 40 50 60
    4     60 70
    5     10
    6     30 40 50 60 70 (70 a conversion)

Item 80 has no click or conversion, only impressions; user 5 has a single click.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import polars as pl

from recsys.columns import EVENT, EVENT_ID, ITEM_ID, TIMESTAMP_MS, TITLE, USER_ID, EventType
from recsys.data.dataset import Dataset, write_dataset

EPOCH_MS: Final = 1_600_000_000_000
SECOND_MS: Final = 1_000

HISTORIES: Final[dict[int, list[int]]] = {
    1: [10, 20, 30, 40],
    2: [10, 20, 30],
    3: [20, 30, 40, 50, 60],
    4: [60, 70],
    5: [10],
    6: [30, 40, 50, 60, 70],
}
"""Clicked or converted items of each user; the n-th one happened n × 1,000 s plus the user's id after EPOCH_MS."""

IMPRESSIONS: Final[list[tuple[int, int]]] = [(1, 80), (2, 80), (3, 80), (5, 20)]
"""(user, item) shown and not taken, all half a second after EPOCH_MS plus the user's id in seconds."""


def toy_events() -> pl.DataFrame:
    """The events of the module's table, in the order of their event ids."""
    taken = [
        (user, item, EventType.CLICK.value, EPOCH_MS + (place * 1000 + user) * SECOND_MS)
        for user, items in HISTORIES.items()
        for place, item in enumerate(items, start=1)
    ]
    taken[-1] = (6, 70, EventType.CONVERSION.value, taken[-1][3])
    shown = [
        (user, item, EventType.IMPRESSION.value, EPOCH_MS + user * SECOND_MS + SECOND_MS // 2)
        for user, item in IMPRESSIONS
    ]
    return pl.DataFrame(taken + shown, schema=[USER_ID, ITEM_ID, EVENT, TIMESTAMP_MS], orient="row").with_row_index(
        EVENT_ID
    )


def toy_items() -> pl.DataFrame:
    """Eight films with a title, a year (one missing), a price and genres (one empty list)."""
    return pl.DataFrame(
        {
            ITEM_ID: [10, 20, 30, 40, 50, 60, 70, 80],
            TITLE: ["Alien", "Brazil", "Casablanca", "Dune", "Eraserhead", "Fargo", "Gilda", "Heat"],
            "year": [1979, 1985, 1942, 2021, 1977, 1996, 1946, None],
            "price": [1.0, 2.0, 2.5, 4.0, 1.5, 3.0, 2.0, 3.5],
            "genres": [
                ["Horror", "SciFi"],
                ["SciFi", "Comedy"],
                ["Romance", "Drama"],
                ["SciFi"],
                ["Horror"],
                ["Crime", "Comedy"],
                ["Romance", "Crime"],
                [],
            ],
        }
    )


def toy_users() -> pl.DataFrame:
    """Six users with a country and an age (one missing)."""
    return pl.DataFrame(
        {
            USER_ID: [1, 2, 3, 4, 5, 6],
            "country": ["fi", "fi", "se", "se", "no", "no"],
            "age": [20, 30, 40, 50, None, 60],
        }
    )


def write_toy(path: Path) -> Dataset:
    """Writes the toy dataset into a directory."""
    return write_dataset(
        path, events=toy_events(), items=toy_items(), users=toy_users(), name="toy", time="real", source="by hand"
    )
