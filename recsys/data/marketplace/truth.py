"""The truth behind a simulated log, saved beside it in `truth/`: what each probability was, for tests and reports.

`truth.json` holds the laws and the size and SHA-256 of every file; `<table>.<field>.npy` the tables of the world;
`interests.arrow` who wanted what when; `events.arrow` the truth of each event, row i that of event id i.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import ValidationError

from recsys.columns import EVENT_ID
from recsys.config import Config
from recsys.data.marketplace.interests import Interests, interests_at
from recsys.data.marketplace.laws import HOUR_MS, Laws
from recsys.data.marketplace.policy import LiveCatalogue, Shelf
from recsys.data.marketplace.responses import Delays, affinity, examination, p_convert, p_relevant
from recsys.data.marketplace.tables import Doubles, Items, Population, Tree
from recsys.data.marketplace.world import World
from recsys.errors import DataError
from recsys.files import sha256_of
from recsys.types import Ids, Rows

TRUTH: Final = "truth"
TRUTH_JSON: Final = "truth.json"
EVENTS: Final = "events.arrow"
INTERESTS: Final = "interests.arrow"
_HOURS_KEPT: Final = 4
_CELLS: Final = 1 << 21

Table = TypeVar("Table", Tree, Items, Population)


class FileRecord(Config):
    """Size in bytes and hex SHA-256 of a file."""

    bytes: int
    sha256: str


class TruthRecord(Config):
    """What `truth.json` says; `events` is the number of events of the log."""

    format: Literal[1] = 1
    laws: Laws
    events: int
    files: dict[str, FileRecord]


class MarketplaceTruth:
    """The laws of a simulated dataset, applied to any users, items and times.

    Users are ids, items are rows of the catalogue, times are Unix milliseconds within the simulation.

    Attributes:
        laws: every constant.
        world: the tables drawn from them.
    """

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.laws = world, world.laws
        self._folder = folder
        self._shelf = Shelf(world)
        self._live = lru_cache(_HOURS_KEPT)(lambda hour: LiveCatalogue(world, hour, self._shelf))

    @classmethod
    def open(cls, dataset: Path) -> MarketplaceTruth:
        """Opens the truth of a dataset directory; checks all sizes, and the content of all but the two Arrow files.

        Raises:
            DataError: where there is no truth, or a file of it is missing or altered.
        """
        folder = dataset / TRUTH
        record = _read_record(folder)
        for name, of in record.files.items():
            _check(folder / name, of, content=name.endswith(".npy"))
        tree, items = _load(folder, "tree", Tree), _load(folder, "items", Items)
        return cls(World(record.laws, tree, items, _load(folder, "population", Population)), folder)

    def p_show(self, users: Ids, rows: Rows, times_ms: Ids) -> Doubles:
        """(n,) probability that a place of a slate, shown to a user at a time, shows an item."""
        who, hours = self._users(users), self._hours(times_ms)
        shown = np.empty(len(who))
        for hour in np.unique(hours):
            at = np.flatnonzero(hours == hour)
            interests = interests_at(self.world, who[at], hour)
            shown[at] = self._live(int(hour)).p_show(interests, rows[at, None])[:, 0]
        return shown

    def p_click(self, users: Ids, rows: Rows, times_ms: Ids, positions: NDArray[Any] | int = 1) -> Doubles:
        """(n,) probability of a click on an item that is shown at a position; at 1, which everybody looks at."""
        who, hours = self._users(users), self._hours(times_ms)
        relevant = p_relevant(self.world, who, rows, hours, self._affinity(who, rows, hours))
        return examination(self.world, np.asarray(positions)) * relevant

    def p_convert(self, users: Ids, rows: Rows, times_ms: Ids) -> Doubles:
        """(n,) probability that a click at a time becomes a conversion within the attribution window."""
        who, hours = self._users(users), self._hours(times_ms)
        return p_convert(self.world, who, rows, hours, self._affinity(who, rows, hours))

    def delay_cdf(self, users: Ids, rows: Rows, times_ms: Ids, elapsed_ms: NDArray[Any] | int) -> Doubles:
        """(n,) P(D ≤ elapsed | the click at a time converts, x); 1 from the end of the window on."""
        delays = Delays.of(self.world, self._users(users), rows, self._hours(times_ms))
        return delays.cdf(np.asarray(elapsed_ms) / HOUR_MS)

    def next_click(self, users: Ids, times_ms: Ids) -> Doubles:
        """(B, N) p_show · p_click of every item of the catalogue: proportional to the odds of being clicked next.

        Knows the hidden interests, the active one included: no model can rank better than this on average.
        """
        who, hours = self._users(users), self._hours(times_ms)
        every = np.arange(self.laws.items)[None, :]
        odds = np.empty((len(who), self.laws.items))
        size = max(1, _CELLS // self.laws.items)
        for hour in np.unique(hours):
            same = np.flatnonzero(hours == hour)
            for at in np.split(same, range(size, len(same), size)):
                interests = interests_at(self.world, who[at], hour)
                matched = affinity(self.world, interests, _all_products(self.world, interests))
                relevant = p_relevant(self.world, who[at, None], every, np.array(hour), matched)
                odds[at] = self._live(int(hour)).p_show(interests, every) * relevant
        return odds

    def interests(self, users: Ids, times_ms: Ids) -> Interests:
        """What B users want at B times."""
        return interests_at(self.world, self._users(users), self._hours(times_ms))

    def interest_segments(self) -> pl.LazyFrame:
        """user_id, slot, start_ms, end_ms, cluster, taste of every interest that any user has."""
        return pl.scan_ipc(self._folder / INTERESTS)

    def events(self) -> pl.LazyFrame:
        """The truth of every event: event_id, position, p_click, p_convert, fast_share, scale_hours, delay_hours.

        A click's `delay_hours` is the delay that its conversion has or will have after the log ends, NaN when it
        never converts; `fast_share` and `scale_hours` are its law (see `Delays`), NaN for impressions.
        """
        numbered = pl.scan_ipc(self._folder / EVENTS).with_row_index(EVENT_ID)
        return numbered.with_columns(pl.col(EVENT_ID).cast(pl.Int64))

    def _affinity(self, users: NDArray[np.int64], rows: Rows, hours: NDArray[np.int64]) -> Doubles:
        interests = interests_at(self.world, users, hours)
        products = np.einsum("nd,nkd->nk", self.world.items.latent[rows], interests.vectors(self.world))
        return affinity(self.world, interests, products[:, None, :])[:, 0]

    def _users(self, ids: Ids) -> NDArray[np.int64]:
        users = np.asarray(ids, np.int64) - 1
        outside = (users < 0) | (users >= self.laws.users)
        if outside.any():
            raise DataError(f"user {ids[int(np.argmax(outside))]} is none of the {self.laws.users:,} simulated ones")
        return users

    def _hours(self, times_ms: Ids) -> NDArray[np.int64]:
        hours = (np.asarray(times_ms, np.int64) - self.laws.start_ms) // HOUR_MS
        outside = (hours < 0) | (hours >= self.laws.hours)
        if outside.any():
            raise DataError(
                f"time {times_ms[int(np.argmax(outside))]} lies outside the simulation, which runs from "
                f"{self.laws.start_ms} to {self.laws.end_ms}"
            )
        return hours


def save_tables(folder: Path, world: World) -> None:
    """Writes the tables of a world as `<table>.<field>.npy`."""
    tables: Mapping[str, Tree | Items | Population] = {
        "tree": world.tree,
        "items": world.items,
        "population": world.population,
    }
    for name, table in tables.items():
        for field in fields(table):
            np.save(folder / f"{name}.{field.name}.npy", getattr(table, field.name), allow_pickle=False)


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Size and content hash of every file of a folder."""
    files = sorted(folder.iterdir())
    return {file.name: FileRecord(bytes=file.stat().st_size, sha256=sha256_of(file)) for file in files}


def _all_products(world: World, interests: Interests) -> Doubles:
    """(B, N, K) of every interest and every item."""
    return (interests.vectors(world) @ world.items.latent.T).transpose(0, 2, 1)


def _load(folder: Path, name: str, kind: type[Table]) -> Table:
    arrays = {}
    for field in fields(kind):
        file = folder / f"{name}.{field.name}.npy"
        try:
            arrays[field.name] = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{file}: cannot be read: {error}; simulate the data again") from None
    return kind(**arrays)


def _read_record(folder: Path) -> TruthRecord:
    file = folder / TRUTH_JSON
    try:
        return TruthRecord.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder.parent} has no {TRUTH}/{TRUTH_JSON}: only simulated data know their truth") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "its text"
        raise DataError(f"{file}: {where}: {first['msg']}; simulate the data again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None


def _check(file: Path, record: FileRecord, *, content: bool) -> None:
    if not file.is_file():
        raise DataError(f"{file.parent} is not whole: it has no {file.name}; simulate the data again")
    if file.stat().st_size != record.bytes or (content and sha256_of(file) != record.sha256):
        raise DataError(f"{file} is not what {TRUTH_JSON} says: it was altered or cut; simulate the data again")
