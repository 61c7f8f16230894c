"""The study of interests as a person reads it: their number, how far they stand apart, their share of the hits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import numpy as np
import polars as pl

from recsys.data.catalogue import Catalogue
from recsys.data.interactions import EvaluationSet
from recsys.evaluate import charts
from recsys.evaluate.categories import Categories
from recsys.evaluate.examples import SHOWN_HISTORY
from recsys.evaluate.interests import LENGTH, Asked, Group, InterestChannel, ask, groups
from recsys.evaluate.markup import number, pair, percent
from recsys.evaluate.results import Progress
from recsys.evaluate.sampling import draw_users
from recsys.evaluate.section import Block, Figure, Html, Section, Table
from recsys.retrieval.channel import Channel

MOST_EVENTS: Final = 5_000
"""Test events, at most."""
EXAMPLES: Final = 4
_SHOWN: Final = 6


@dataclass(frozen=True, slots=True)
class Item:
    """An item as examples show it: title, its categories as text, whether it is what came next."""

    title: str
    categories: str
    is_target: bool = False


@dataclass(frozen=True, slots=True)
class Interest:
    """What one interest found: so many of the list, and the first of them."""

    found: int
    items: Sequence[Item]


@dataclass(frozen=True, slots=True)
class InterestExample:
    """One user: the newest items of the history, oldest first, and the interests, the one that found most first."""

    length: int
    history: Sequence[Item]
    interests: Sequence[Interest]


@dataclass(frozen=True, slots=True)
class ChannelInterests:
    """One channel: all events, the groups by number of interests, and some users."""

    whole: Group
    groups: Sequence[Group]
    examples: Sequence[InterestExample]


@dataclass(frozen=True, slots=True)
class InterestStudy:
    """Of every channel that has several interests a user."""

    channels: Mapping[str, ChannelInterests]

    @property
    def key(self) -> str:
        """Its entry under the protocol in report.json."""
        return "interests"

    def as_json(self) -> dict[str, Any]:
        """See `Study.as_json`."""
        return {
            name: {**found.whole.as_json(), "by_number": [group.as_json() for group in found.groups]}
            for name, found in self.channels.items()
        }

    def section(self) -> Section:
        """See `Study.section`."""
        intro = (
            f"A user with L events has K' = max(1, min(K, ⌊log2 L⌋)) interests; each is searched, and the {LENGTH} "
            "best of all are the list. The effective number says how many of them matter: exp of the entropy of "
            "the shares of the list that they found, and, of their vectors alone, the participation ratio (all at "
            "right angles: K', all alike: 1). The first interest is the one that found most of the list."
        )
        return Section("Interests", intro, [block for name in self.channels for block in self._blocks(name)])

    def _blocks(self, name: str) -> list[Block]:
        found = self.channels[name]
        rows = [_row(f"{group.interests}", group) for group in found.groups]
        rows.append(_row("all", found.whole))
        columns = (
            "interests",
            "test events",
            f"Recall@{LENGTH}",
            "effective, by list",
            "effective, by vectors",
            "mean cosine",
            "later interests: of places",
            "of hits",
        )
        caption = (
            f"{name}. Later interests: all but the first of each user; their share of the places of the lists, and of "
            f"the hits among {LENGTH}: alike where their places are worth as much as those of the first."
        )
        figures = [("How many interests users have", _numbers(found)), ("How many of them matter", _effective(found))]
        return [pair(figures), Table(columns, rows, caption), *(Html(_example(one)) for one in found.examples)]


def interest_study(
    channels: Mapping[str, Channel],
    events: EvaluationSet,
    catalogue: Catalogue,
    attributes: pl.DataFrame | None,
    progress: Progress,
) -> InterestStudy | None:
    """Looks into every channel with several interests a user; None when there is none.

    Args:
        channels: by name.
        events: the test events; of more than `MOST_EVENTS` those of users drawn at random.
        catalogue: of the bundle.
        attributes: of the users.
        progress: told what is happening.
    """
    several = {name: channel for name, channel in channels.items() if isinstance(channel, InterestChannel)}
    if not several:
        return None
    events, kinds, found = draw_users(events, MOST_EVENTS), Categories.of(catalogue), {}
    for name, channel in several.items():
        progress.start(f"{name}, interests", len(events))
        asked = list(ask(channel, events, attributes, progress))
        if asked:
            shown = [_shown(one, events, catalogue, kinds) for one in _drawn(asked)]
            found[name] = ChannelInterests(*groups(asked), shown)
    return InterestStudy(found)


def _drawn(asked: Sequence[Asked]) -> list[Asked]:
    """Users with several interests, drawn at random: half of them such whose next item a later interest found."""
    generator = np.random.default_rng(0)
    several = [asked[i] for i in generator.permutation(len(asked)) if asked[i].there > 1]
    later = [one for one in several if one.hit_by_later][: EXAMPLES // 2]
    return later + [one for one in several if not one.hit_by_later][: EXAMPLES - len(later)]


def _shown(one: Asked, events: EvaluationSet, catalogue: Catalogue, kinds: Categories | None) -> InterestExample:
    history, titles = events.users(one.m, one.m + 1).history[0], catalogue.titles()
    target = int(events.target[one.m])

    def item(row: int) -> Item:
        text = "" if kinds is None else catalogue.attributes(row, [kinds.column]).get(kinds.column, "")
        return Item(titles[row], text.replace("|", ", "), row == target)

    interests = []
    for number_ in range(one.there):
        rows = one.rows[one.found_by == number_]
        interests.append(Interest(len(rows), [item(int(row)) for row in rows[:_SHOWN]]))
    return InterestExample(len(history), [item(int(row)) for row in history[-SHOWN_HISTORY:]], interests)


def _numbers(found: ChannelInterests) -> Figure:
    bars = [
        charts.Bar(_times(group.interests), group.n / found.whole.n, percent(group.n / found.whole.n), kind="model")
        for group in found.groups
    ]
    described = "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    return Figure(charts.bars(bars, "Interests of a user", described, width=570), "Share of the test events.")


def _effective(found: ChannelInterests) -> Figure:
    bars = [
        charts.Bar(f"{_times(group.interests)}, {label}", value, number(value, 2), kind=kind)
        for group in found.groups
        if group.interests > 1
        for label, value, kind in (
            ("by list", group.effective, "model"),
            ("by vectors", group.participation, "cascade"),
        )
    ]
    bars = bars or [charts.Bar("1 interest", 1.0, "1.00")]
    described = "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    drawn = charts.bars(bars, "Effective number of interests", described, width=570)
    return Figure(drawn, "Effective number: as many as there are would be the most.")


def _times(interests: int) -> str:
    return "1 interest" if interests == 1 else f"{interests} interests"


def _row(label: str, group: Group) -> list[str | int | float | None]:
    effective = (group.effective, group.participation, group.cosine)
    return [label, group.n, group.recall, *effective, group.later_places, group.later_hits]


def _example(one: InterestExample) -> str:
    trail = " › ".join(_item(item) for item in one.history)
    more = f"{one.length - len(one.history):,} earlier, then " if one.length > len(one.history) else ""
    lists = "".join(_interest(i, interest) for i, interest in enumerate(one.interests, start=1))
    history = f'<p class="trail">History: {more}{trail}</p>'
    return f'<article class="example">{history}<div class="lists">{lists}</div></article>'


def _interest(place: int, interest: Interest) -> str:
    lines = "".join(f'<li class="{"hit" if item.is_target else "miss"}">{_item(item)}</li>' for item in interest.items)
    heading = f"Interest {place}: {interest.found} of {LENGTH}"
    return f"<div><h4>{heading}</h4><ol>{lines or '<li>nothing</li>'}</ol></div>"


def _item(item: Item) -> str:
    kinds = f' <span class="kinds">{escape(item.categories)}</span>' if item.categories else ""
    mark = ' <span aria-label="this was next">✓</span>' if item.is_target else ""
    return escape(item.title) + kinds + mark
