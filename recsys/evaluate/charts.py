"""Charts as inline SVG: light, sharp in print, coloured by the page's own light or dark style.

Each function returns one whole `<svg>` element with a title and a description for those who cannot see it. Colours
come from the classes of the page (`model`, `cascade`, `baseline`, `line-0` … `line-5`), never from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

_CHARACTER = 7.4
"""Width of an average character of a label in a wide font, in units of the drawing."""
_SMALL_CHARACTER = 6.6
"""The same in the font of ticks and notes."""
_WIDE = 1180
"""Width of a panel of the page, so that letters keep their size."""
_MARKS = tuple(round(step * 10.0**power, 1) for power in range(-1, 9) for step in (1, 2, 5))


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: a value, its interval when there is one, and what is written at its end."""

    label: str
    value: float
    text: str
    interval: tuple[float, float] | None = None
    kind: str = "baseline"


@dataclass(frozen=True, slots=True)
class Line:
    """One line: y over the x of its chart, None where there is no point, with intervals when there are some."""

    label: str
    values: Sequence[float | None]
    kind: str
    intervals: Sequence[tuple[float, float] | None] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Branch:
    """A node of a tree that is drawn: how deep it is, its name, and a note below the name."""

    level: int
    label: str
    note: str


@dataclass(frozen=True, slots=True)
class Scale:
    """A vertical scale: round marks from the bottom up, and how high a value stands, from 0 to 1."""

    marks: Sequence[float]
    height: Callable[[float], float]


def linear(values: Iterable[float | None]) -> Scale:
    """From 0 to at least the largest value."""
    marks = ticks(max((value for value in values if value is not None), default=0.0))
    return Scale(marks, lambda value: value / marks[-1])


def nines(top: float = 0.999) -> Scale:
    """For shares near 1, from .5: each halving of what is missed rises as far as the one before; 1 is drawn on top."""
    marks = [mark for mark in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999) if mark <= top]
    low, high = math.log(1 - marks[0]), math.log((1 - top) / 2)

    def height(value: float) -> float:
        missed = min(max(1 - value, (1 - top) / 2), 1 - marks[0])
        return (math.log(missed) - low) / (high - low)

    return Scale([*marks, 1.0], height)


def decades(values: Iterable[float | None]) -> Scale:
    """Logarithmic, from the power of ten at or below the smallest value, all positive, to that at or above the largest.

    Raises:
        ValueError: when there is no value.
    """
    powers = [math.log10(value) for value in values if value is not None]
    low, high = math.floor(min(powers)), math.ceil(max(powers))
    high = max(high, low + 1)
    return Scale(
        [10.0**power for power in range(low, high + 1)], lambda value: (math.log10(value) - low) / (high - low)
    )


def ticks(top: float, about: int = 5) -> list[float]:
    """Round numbers from 0 to at least `top`, about as many as asked for."""
    if top <= 0:
        return [0.0, 1.0]
    rough = top / about
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * magnitude >= rough * 0.999)
    return [round(step * i, 12) for i in range(math.ceil(top / step - 1e-9) + 1)]


def bars(rows: Sequence[Bar], title: str, description: str, *, unit: str = "", width: int = _WIDE) -> str:
    """Horizontal bars from 0, longest label on the left, whiskers for intervals, values at the right edge."""
    row, top = 28, 8
    left = 20 + _CHARACTER * max(len(bar.label) for bar in rows)
    right = 14 + _CHARACTER * max(len(bar.text) for bar in rows)
    marks = ticks(max(max(bar.value, *(bar.interval or (0.0,))) for bar in rows))
    height = top + row * len(rows) + 30
    span = width - left - right

    def x(value: float) -> float:
        return left + span * value / marks[-1]

    parts = [_grid_x(x(mark), top, top + row * len(rows), _number(mark) + unit) for mark in marks]
    for i, bar in enumerate(rows):
        middle = top + row * i + row / 2
        parts.append(
            _text(left - 8, middle + 4, bar.label, "label end" + (" strong" if bar.kind != "baseline" else ""))
        )
        parts.append(
            f'<rect class="{bar.kind}" x="{left:.1f}" y="{middle - 8:.1f}" width="{max(x(bar.value) - left, 1):.1f}" '
            f'height="16" rx="2"/>'
        )
        if bar.interval:
            parts.append(_whisker(x(bar.interval[0]), x(bar.interval[1]), middle))
        parts.append(_text(width - 4, middle + 4, bar.text, "value end"))
    return _svg(width, height, title, description, parts)


def differences(rows: Sequence[Bar], title: str, description: str, *, width: int = _WIDE) -> str:
    """Points left and right of 0 with their intervals, longest label on the left, values at the right edge."""
    row, top = 24, 8
    left = 20 + _CHARACTER * max(len(bar.label) for bar in rows)
    right = 20 + _CHARACTER * max(len(bar.text) for bar in rows)
    ends: list[float] = [end for bar in rows for end in (bar.value, *(bar.interval or ()))]
    step = ticks(max(map(abs, ends)))[1]
    first = math.floor(min(0.0, *ends) / step)
    last = max(math.ceil(max(0.0, *ends) / step), first + 1)
    bottom = top + row * len(rows)

    unit = (width - left - right) / (last - first)

    def x(value: float) -> float:
        return left + unit * (value / step - first)

    marks = [round(step * i, 12) for i in range(first, last + 1)]
    parts = [_grid_x(x(mark), top, bottom, _number(mark)) for mark in marks]
    parts.append(f'<path class="axis" d="M{x(0.0):.1f} {top}V{bottom}"/>')
    for i, bar in enumerate(rows):
        middle = top + row * (i + 0.5)
        parts.append(_text(left - 8, middle + 4, bar.label, "label end"))
        if bar.interval:
            parts.append(_path([(x(end), middle) for end in bar.interval], bar.kind))
        parts.append(_dot((x(bar.value), middle), bar.kind))
        parts.append(_text(width - 4, middle + 4, bar.text, "value end"))
    return _svg(width, bottom + 30, title, description, parts)


def curves(
    xs: Sequence[float],
    lines: Sequence[Line],
    title: str,
    description: str,
    *,
    x_label: str,
    scale: Scale | None = None,
    width: int = _WIDE,
) -> str:
    """Lines over a logarithmic x (positive, ascending), each named beside its last point; one point alone is a dot."""
    height, top, bottom = 360, 12, 46
    right = 26 + _CHARACTER * max(len(line.label) for line in lines)
    scale = scale or linear(value for line in lines for value in line.values)
    left = max(48, 8 + _CHARACTER * max(len(_number(mark)) for mark in scale.marks))
    low, span = math.log(xs[0]), math.log(xs[-1]) - math.log(xs[0])

    def x(value: float) -> float:
        return left + (width - left - right) * (math.log(value) - low) / span

    def y(value: float) -> float:
        return height - bottom - (height - top - bottom) * scale.height(value)

    parts = [_grid_y(y(mark), left, width - right, _number(mark)) for mark in scale.marks]
    parts += [_tick_x(x(mark), height - bottom, f"{mark:.2g}" if mark < 100 else _number(mark)) for mark in _marks(xs)]
    parts.append(_text((left + width - right) / 2, height - 6, x_label, "tick middle"))
    ends = _spread([y(_last(line)) for line in lines], 15.0, top, height - bottom)
    for line, end in zip(lines, ends, strict=True):
        points = [(x(a), y(b)) for a, b in zip(xs, line.values, strict=True) if b is not None]
        parts.append(_path(points, line.kind) if len(points) > 1 else _dot(points[0], line.kind))
        parts.append(_leader(points[-1], (width - right + 10, end), line.kind))
        parts.append(_text(width - right + 14, end + 4, line.label, f"label {line.kind}"))
    return _svg(width, height, title, description, parts)


def categories(
    names: Sequence[str],
    lines: Sequence[Line],
    title: str,
    description: str,
    *,
    x_label: str,
    scale: Scale | None = None,
    width: int = _WIDE,
) -> str:
    """Points over named groups, joined by lines, with the interval of each point."""
    height, left, top, bottom = 330, 48, 12, 62
    right = 26 + _CHARACTER * max(len(line.label) for line in lines)
    highs = [high for line in lines for pair in line.intervals if pair for high in pair]
    scale = scale or linear([*(value for line in lines for value in line.values), *highs])
    step = (width - left - right) / len(names)

    def y(value: float) -> float:
        return height - bottom - (height - top - bottom) * scale.height(value)

    parts = [_grid_y(y(mark), left, width - right, _number(mark)) for mark in scale.marks]
    for i, name in enumerate(names):
        for j, words in enumerate(name.split("\n")):
            parts.append(_text(left + step * (i + 0.5), height - bottom + 18 + 14 * j, words, "tick middle"))
    parts.append(_text((left + width - right) / 2, height - 6, x_label, "tick middle"))
    ends = _spread([y(_last(line)) for line in lines], 15.0, top, height - bottom)
    for number, (line, end) in enumerate(zip(lines, ends, strict=True)):
        shift = (number - (len(lines) - 1) / 2) * min(9.0, step / (len(lines) + 2))
        points = []
        for i, value in enumerate(line.values):
            if value is None:
                continue
            place = left + step * (i + 0.5) + shift
            points.append((place, y(value)))
            pair = line.intervals[i] if line.intervals else None
            if pair:
                parts.append(_bar_y(place, y(pair[0]), y(pair[1]), line.kind))
            parts.append(_dot((place, y(value)), line.kind))
        parts.append(_path(points, line.kind + " thin"))
        parts.append(_leader(points[-1], (width - right + 10, end), line.kind))
        parts.append(_text(width - right + 14, end + 4, line.label, f"label {line.kind}"))
    return _svg(width, height, title, description, parts)


def hierarchy(branches: Sequence[Branch], title: str, description: str, *, width: int = _WIDE) -> str:
    """A tree from left to right: a column a level, a row a node without nodes below it.

    Args:
        branches: each followed by those below it, the root first.
        title: of the drawing.
        description: for those who cannot see it.
        width: in units of the drawing.
    """
    row, top = 40.0, 22.0
    below = [_below(branches, place) for place in range(len(branches))]
    ends = [place for place, children in enumerate(below) if not children]
    heights = {place: top + row * number for number, place in enumerate(ends)}
    for place in reversed(range(len(branches))):
        if below[place]:
            heights[place] = sum(heights[child] for child in below[place]) / len(below[place])
    column = max((_CHARACTER * len(branches[p].label) + 24 for p, c in enumerate(below) if c), default=0.0)
    parts = []
    for place, branch in enumerate(branches):
        x, y = 8 + column * branch.level, heights[place]
        parts += [_elbow((x, y), (x + column, heights[child])) for child in below[place]]
        parts.append(_dot((x, y), "model"))
        parts.append(_text(x + 8, y - 5, branch.label, "label strong"))
        parts.append(_text(x + 8, y + 10, _cut(branch.note, width - x - 8), "tick"))
    return _svg(width, top + row * len(ends), title, description, parts)


def _cut(words: str, room: float) -> str:
    """As much of the words, in the small font, as there is room for."""
    most = int(room / _SMALL_CHARACTER)
    return words if len(words) <= most else words[: most - 1].rstrip(" ·,") + "…"


def _below(branches: Sequence[Branch], place: int) -> list[int]:
    """Places of the children of a node, which follow it."""
    children = []
    for other in range(place + 1, len(branches)):
        if branches[other].level <= branches[place].level:
            break
        if branches[other].level == branches[place].level + 1:
            children.append(other)
    return children


def _last(line: Line) -> float:
    """The last value of a line that is there."""
    return next((value for value in reversed(line.values) if value is not None), 0.0)


def _marks(xs: Sequence[float]) -> list[float]:
    """Round numbers within a logarithmic scale; its ends where fewer than two fit."""
    within = [mark for mark in _MARKS if xs[0] <= mark <= xs[-1]]
    return within if len(within) > 1 else [xs[0], xs[-1]]


def _spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near those wanted, at least `gap` apart, within bounds where they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    floor = low
    for i in order:
        placed[i] = max(wanted[i], floor)
        floor = placed[i] + gap
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def _svg(width: float, height: float, title: str, description: str, parts: Iterable[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}: {escape(description)}"><title>{escape(title)}</title>'
        f"<desc>{escape(description)}</desc>{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def _grid_x(x: float, top: float, bottom: float, words: str) -> str:
    return f'<path class="grid" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>' + _text(x, bottom + 18, words, "tick middle")


def _grid_y(y: float, left: float, right: float, words: str) -> str:
    return f'<path class="grid" d="M{left:.1f} {y:.1f}H{right:.1f}"/>' + _text(left - 8, y + 4, words, "tick end")


def _tick_x(x: float, y: float, words: str) -> str:
    return f'<path class="axis" d="M{x:.1f} {y:.1f}v5"/>' + _text(x, y + 20, words, "tick middle")


def _whisker(low: float, high: float, y: float) -> str:
    return f'<path class="whisker" d="M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - 4:.1f}v8M{high:.1f} {y - 4:.1f}v8"/>'


def _bar_y(x: float, low: float, high: float, kind: str) -> str:
    return f'<path class="line faint {kind}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'


def _path(points: Sequence[tuple[float, float]], kind: str) -> str:
    return f'<path class="line {kind}" d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + '"/>'


def _elbow(start: tuple[float, float], end: tuple[float, float]) -> str:
    return f'<path class="axis" d="M{start[0]:.1f} {start[1]:.1f}V{end[1]:.1f}H{end[0]:.1f}"/>'


def _dot(at: tuple[float, float], kind: str) -> str:
    return f'<circle class="dot {kind}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3.5"/>'


def _leader(start: tuple[float, float], end: tuple[float, float], kind: str) -> str:
    return f'<path class="line leader {kind}" d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}"/>'


def _number(value: float) -> str:
    return f"{value:,.10g}".replace("-", "−")
