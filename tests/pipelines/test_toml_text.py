"""What is written as TOML reads back as it was."""

from __future__ import annotations

import math
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.toml_text import to_toml

scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20)


@given(st.dictionaries(keys, values))
def test_any_nesting_reads_back(tree: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(tree)) == tree


def test_a_configuration_looks_as_one_would_write_it() -> None:
    tree = {"seed": 1, "features": {"features": [{"kind": "id"}]}, "two_tower": {"dim": 64, "index": {"kind": "flat"}}}
    assert to_toml(tree) == (
        'seed = 1\n\n[features]\nfeatures = [\n    { kind = "id" },\n]\n\n'
        '[two_tower]\ndim = 64\n\n[two_tower.index]\nkind = "flat"\n'
    )


def test_what_toml_cannot_say_is_left_out_and_what_is_no_setting_refused() -> None:
    assert to_toml({"a": None, "b": {"c": None}, "d": [{"e": None}]}) == "d = [\n    {  },\n]\n\n[b]\n"
    assert math.isnan(tomllib.loads(to_toml({"x": math.nan}))["x"])
    with pytest.raises(TypeError, match="has no form in TOML"):
        to_toml({"x": object()})


def test_a_key_that_ends_in_a_new_line_is_quoted() -> None:
    assert tomllib.loads(to_toml({"0\n": {"1\n": 2}})) == {"0\n": {"1\n": 2}}
