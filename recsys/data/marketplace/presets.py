"""The worlds that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from recsys.config import parse_config
from recsys.data.marketplace.laws import (
    ClickLaw,
    ConversionLaw,
    DelayLaw,
    Laws,
    PolicyLaw,
    TreeLaw,
)
from recsys.errors import UsageError

SMALL: Final = Laws(
    preset="small",
    days=30,
    users=5_000,
    items=2_000,
    events=1_000_000,
    events_a_session=11.27,
    tree=TreeLaw(categories=6, subcategories=2, clusters=2, brands=60),
)
"""Seconds to make, minutes to train on: for tests, reports, and a first look."""

MILLION: Final = Laws(
    preset="million",
    days=30,
    users=1_000_000,
    items=1_000_000,
    events=30_000_000,
    events_a_session=11.27,
    tree=TreeLaw(categories=20, subcategories=10, clusters=10, brands=2_000),
)
"""A million items and users: for what only size shows."""

DELAYED: Final = Laws(
    preset="delayed",
    days=75,
    users=50_000,
    items=10_000,
    events=3_000_000,
    events_a_session=4.03,
    tree=TreeLaw(categories=12, subcategories=4, clusters=2, brands=200),
    policy=PolicyLaw(slate=3),
    click=ClickLaw(base=-3.4),
    conversion=ConversionLaw(base=-2.65),
    delay=DelayLaw(window_hours=720.0, fast_hours=0.2, shape=0.6, base=-1.22, log_scale=5.7),
)
"""Conversions that keep advertisers waiting: about 35% within the hour, 50% within a day, the rest within 30 days,
as in Criteo's public log of conversions."""

PRESETS: Final[Mapping[str, Laws]] = MappingProxyType({laws.preset: laws for laws in (SMALL, MILLION, DELAYED)})

MOST_EVENTS_AN_HOUR: Final = 5_000_000
"""An hour of events is held in memory: so many take about a gigabyte."""


def laws_of(preset: str, **changes: Any) -> Laws:
    """The laws of a preset, with some constants changed (`seed`, `events`, `days`, …).

    Raises:
        UsageError: for a name that no preset has, or more events than hours can hold.
        ConfigError: for a value out of its bounds.
    """
    if preset not in PRESETS:
        raise UsageError(f"--preset {preset}: there is no such world; there are: {', '.join(PRESETS)}")
    laws = parse_config(Laws, {**PRESETS[preset].model_dump(), **changes}, f"preset {preset}")
    if laws.events > MOST_EVENTS_AN_HOUR * laws.hours:
        most = MOST_EVENTS_AN_HOUR * laws.hours
        raise UsageError(f"--events {laws.events}: {laws.days} days hold at most {most:,} events; give more --days")
    return laws
