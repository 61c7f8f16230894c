import datetime as dt
from decimal import Decimal
from math import inf, isnan, nan

import numpy as np
import pytest

from recsys.features.values import is_missing, to_integer, to_number, to_string


@pytest.mark.parametrize("value", [None, nan, "", np.float32("nan"), Decimal("NaN")])
def test_missing_is_none_nan_and_the_empty_string(value: object) -> None:
    assert is_missing(value)


@pytest.mark.parametrize("value", [0, 0.0, False, " ", "nan", [], inf])
def test_a_value_that_is_false_or_odd_is_not_missing(value: object) -> None:
    assert not is_missing(value)


@pytest.mark.parametrize(
    ("value", "integer"),
    [
        (3, 3), (3.0, 3), ("3", 3), ("+3", 3), ("-3", -3), ("003", 3), ("3.0", 3), ("3.", 3), (Decimal(3), 3),
        (True, 1), (False, 0), ("true", 1), ("False", 0), (np.int8(3), 3), (np.float32(3), 3), (np.True_, 1),
        (2.5, None), ("2.5", None), ("3a", None), (" 3", None), ("1_0", None), ("٣", None), (inf, None), ([3], None),
        ({}, None),
    ],
)  # fmt: skip
def test_integers_come_in_many_clothes(value: object, integer: int | None) -> None:
    assert to_integer(value) == integer
    assert type(to_integer(value)) is type(integer)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"), (" a", " a"), (3, "3"), (3.0, "3"), (2.5, "2.5"), (True, "true"), (False, "false"), (inf, "inf"),
        (np.int64(3), "3"), (np.str_("a"), "a"), (Decimal("2.5"), "2.5"), (["a"], None), (b"a", None),
    ],
)  # fmt: skip
def test_strings_are_what_a_person_would_write(value: object, text: str | None) -> None:
    assert to_string(value) == text


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0), ("2.5", 2.5), (True, 1.0), (10**400, inf), (-(10**400), -inf), ("-inf", -inf), (np.float32(0.5), 0.5),
        (dt.date(1970, 1, 2), 86_400_000.0), (dt.datetime(1970, 1, 1, 0, 0, 1), 1000.0),
        (dt.datetime(1970, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))), 0.0),
    ],
)  # fmt: skip
def test_numbers_dates_and_infinities_have_a_place_on_one_line(value: object, number: float) -> None:
    assert to_number(value) == number


@pytest.mark.parametrize("value", [None, nan, "", "three", [3], {}, b"3", dt.time(3)])
def test_what_is_no_number_is_missing(value: object) -> None:
    assert isnan(to_number(value))
