"""Charts: round scales, bars as long as their values, labels that do not overlap, text that is escaped."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from recsys.evaluate.charts import (
    Bar,
    Branch,
    Line,
    bars,
    categories,
    curves,
    decades,
    differences,
    hierarchy,
    nines,
    ticks,
)


@pytest.mark.parametrize(
    ("top", "expected"),
    [(0.23, [0, 0.05, 0.1, 0.15, 0.2, 0.25]), (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (730.0, [0, 200, 400, 600, 800])],
)
def test_scales_have_round_numbers_and_hold_the_largest_value(top: float, expected: list[float]) -> None:
    assert ticks(top) == pytest.approx(expected)


def test_a_scale_of_nothing_is_still_a_scale() -> None:
    assert ticks(0.0) == [0.0, 1.0]


def test_bars_are_as_long_as_their_values() -> None:
    drawn = bars([Bar("a", 0.2, "0.2", (0.1, 0.3)), Bar("b", 0.1, "0.1")], "title", "description")
    long, short = (float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', drawn))
    assert long == pytest.approx(2 * short, abs=0.2)
    assert drawn.count("whisker") == 1


@pytest.mark.parametrize("values", [(-0.2, 0.0, 0.1), (0.1, 0.0, 0.2), (-0.1, 0.0, -0.3)])
def test_differences_stand_on_their_side_of_nothing_as_far_as_they_are_large(values: tuple[float, ...]) -> None:
    rows = [Bar(f"{value}", value, f"{value}", (value - 0.01, value + 0.01), "line-0") for value in values]
    root = ElementTree.fromstring(differences(rows, "title", "description"))
    first, nothing, last = (float(dot.attrib["cx"]) for dot in root.iter("circle"))
    assert (first - nothing) / values[0] == pytest.approx((last - nothing) / values[2], rel=1e-2)
    assert (first > nothing) == (values[0] > 0)
    (axis,) = (part for part in root.iter("path") if part.attrib["class"] == "axis")
    assert float(re.findall(r"M([\d.]+)", axis.attrib["d"])[0]) == nothing


def test_drawings_are_whole_and_escaped() -> None:
    line = Line("a < b & c", [0.1, None, 0.3], "line-0", [(0.0, 0.2), None, (0.2, 0.4)])
    drawings = [
        bars([Bar("a < b & c", 0.2, "<")], "<title>", '"quoted"'),
        curves([1.0, 10.0, 500.0], [line], "title", "description", x_label="k"),
        differences([Bar("a < b & c", -0.2, "<", (-0.3, -0.1))], "<title>", '"quoted"'),
        categories(["1\nn = 2", "2", "3"], [line], "title", "description", x_label="events"),
    ]
    for drawn in drawings:
        root = ElementTree.fromstring(drawn)
        assert root.tag == "svg"
        assert any(part.text == "a < b & c" for part in root.iter("text"))
        assert root.find("title") is not None


def test_labels_of_lines_that_end_together_stand_apart() -> None:
    lines = [Line(f"line {i}", [0.1, 0.5], f"line-{i}") for i in range(4)]
    root = ElementTree.fromstring(curves([1.0, 500.0], lines, "title", "description", x_label="k"))
    heights = sorted(float(part.attrib["y"]) for part in root.iter("text") if str(part.text).startswith("line"))
    assert all(b - a >= 14.9 for a, b in pairwise(heights))


def test_on_a_scale_of_nines_each_halving_of_what_is_missed_rises_as_far() -> None:
    scale = nines()
    heights = [scale.height(value) for value in (0.5, 0.75, 0.875, 0.9375)]
    assert heights[0] == 0
    assert all(b - a == pytest.approx(heights[1]) for a, b in pairwise(heights))
    assert scale.height(1.0) == scale.height(0.99999) == 1
    assert scale.height(0.2) == 0
    assert scale.height(0.999) < 1


def test_on_a_scale_of_decades_each_power_of_ten_rises_as_far() -> None:
    scale = decades([40.0, None, 7_000.0])
    assert scale.marks == [10.0, 100.0, 1_000.0, 10_000.0]
    assert [round(scale.height(mark), 9) for mark in scale.marks] == [0.0, round(1 / 3, 9), round(2 / 3, 9), 1.0]
    assert len(decades([100.0]).marks) == 2


def test_a_line_of_one_point_is_a_dot_named_at_its_height() -> None:
    lines = [Line("alone", [None, 0.4, None], "line-0"), Line("other", [0.1, None, 0.2], "line-1")]
    root = ElementTree.fromstring(curves([1.0, 10.0, 500.0], lines, "title", "description", x_label="k"))
    (dot,) = root.iter("circle")
    name = next(part for part in root.iter("text") if part.text == "alone")
    assert float(name.attrib["y"]) == pytest.approx(float(dot.attrib["cy"]) + 4, abs=0.2)


def test_a_hierarchy_gives_every_end_a_row_and_stands_what_is_above_between_its_own() -> None:
    names = [(0, "all"), (1, "films"), (2, "old"), (2, "new"), (1, "books")]
    drawn = hierarchy([Branch(level, name, "1 & 2") for level, name in names], "Tree", "five nodes")
    root = ElementTree.fromstring(drawn)
    dots = [(float(dot.get("cx", 0)), float(dot.get("cy", 0))) for dot in root.iter("circle")]
    x, y = zip(*dots, strict=True)
    assert x[0] < x[1] == x[4] < x[2] == x[3]
    assert y[2] < y[3] < y[4]
    assert y[1] == pytest.approx((y[2] + y[3]) / 2)
    assert y[0] == pytest.approx((y[1] + y[4]) / 2)
    assert len(list(root.iter("path"))) == len(names) - 1


def test_a_note_that_is_too_long_for_the_drawing_is_cut() -> None:
    drawn = hierarchy([Branch(0, "all", "word " * 100)], "Tree", "one node", width=200)
    assert "…</text>" in drawn
    assert drawn.count("word") < 10
