from __future__ import annotations

from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.content_hash import batches_hash, frame_hash

FRAME = pl.DataFrame({"n": [1, None, 3], "x": [0.5, 1.5, None], "s": ["a", None, "c"], "l": [["p"], [], None]})


@given(st.lists(st.integers(0, 5), max_size=4))
def test_how_rows_are_batched_does_not_matter(cuts: list[int]) -> None:
    frame = pl.DataFrame({"n": [1, None, 3, 4, 5], "s": ["a", None, "c", "d", "e"]})
    bounds = [0, *sorted(cuts), 5]
    batches = [frame[start:stop] for start, stop in pairwise(bounds)]
    assert batches_hash(frame.schema, batches) == frame_hash(frame)


@pytest.mark.parametrize(
    "changed",
    [
        FRAME.with_columns(n=pl.Series([1, 0, 3])),
        FRAME.with_columns(x=pl.Series([0.5, 1.5, 0.0])),
        FRAME.with_columns(s=pl.Series(["a", "", "c"])),
        FRAME.with_columns(l=pl.Series([["p"], None, []])),
        FRAME.rename({"n": "m"}),
        FRAME.with_columns(pl.col("n").cast(pl.Int32)),
        FRAME.reverse(),
        FRAME.head(2),
    ],
)
def test_another_value_name_type_order_or_number_of_rows_is_another_hash(changed: pl.DataFrame) -> None:
    assert frame_hash(changed) != frame_hash(FRAME)
