"""When a history is left out of the softmax: where hardly anybody chooses an item twice, unless told otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.data.interactions import Interactions
from recsys.recipes.retriever_recipe import excludes_history


def choices_of_one_user(repeated: int) -> Interactions:
    """1,000 choices, of which the last so many are of the first item again."""
    rows = np.arange(1_000, dtype=np.int32)
    rows[1_000 - repeated :] = 0
    return Interactions(np.array([7]), np.array([0, 1_000]), rows, np.arange(1_000))


@pytest.mark.parametrize(("repeated", "left_out"), [(0, True), (10, True), (11, False), (500, False)])
def test_a_history_is_left_out_where_at_most_one_in_a_hundred_choices_is_a_repeated_one(
    repeated: int, left_out: bool
) -> None:
    assert excludes_history("auto", choices_of_one_user(repeated)) is left_out


@pytest.mark.parametrize("said", [True, False])
def test_what_is_said_counts_whatever_the_log(said: bool) -> None:
    assert excludes_history(said, choices_of_one_user(0)) is said
    assert excludes_history(said, choices_of_one_user(500)) is said
