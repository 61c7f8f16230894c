"""`recsys batch`: recommendations for all users of a bundle, or for those of a file, into one Parquet file."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.cli.consoles import text_console

if TYPE_CHECKING:
    import polars as pl

    from recsys.bundle.batch import Part
    from recsys.bundle.bundle import Bundle
    from recsys.retrieval.filters import AttributeFilter
    from recsys.types import Ids

console = text_console()

SUFFIX: Final = ".parquet"
_PLAIN_LINE_SECONDS: Final = 10.0
RECOMMEND: Final = "recommend"
STAGES: Final = (RECOMMEND, "recall")
_NUMBER: Final = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_BOUNDS: Final = re.compile(rf"({_NUMBER})?\.\.({_NUMBER})?")


def register(app: typer.Typer) -> None:
    """Adds the verb `batch`."""
    app.command("batch")(batch)


def batch(
    bundle: Path = typer.Option(..., help="A bundle, or the folder of all bundles: the one that is served."),
    out: Path = typer.Option(..., help="The Parquet file; replaced once the new one is whole."),
    k: int = typer.Option(100, "-k", "--k", help="Items a user."),
    users: Path | None = typer.Option(
        None, help="CSV or Parquet with a column user_id or, for string ids, user_key; all of the bundle when left out."
    ),
    data: Path | None = typer.Option(None, help="The dataset directory: gives the keys of users who have string ids."),
    channels: str = typer.Option("", help="Names of the channels to ask, separated by commas; all when left out."),
    stage: str = typer.Option(RECOMMEND, help="recommend: the whole cascade; recall: the channels' merged list."),
    exclude_seen: bool = typer.Option(
        True, "--exclude-seen/--include-seen", help="Whether items that the user has seen are left out."
    ),
    filters: list[str] = typer.Option(
        [], "--filter", help="genres=Comedy|Drama or year=1990..1999 or price=..20; several must all hold."
    ),
    attributes: str = typer.Option("", help="Attributes of the items to add as columns, by commas: title,year."),
    workers: int = typer.Option(0, min=0, help="Processes, one core each; 0: one a core."),
) -> None:
    """Recommend items to all users, through the cascade that the server runs."""
    from recsys.bundle.batch import BatchQuery
    from recsys.bundle.batch_file import Columns, batch_file
    from recsys.bundle.batch_processes import answers, cores
    from recsys.bundle.bundle import open_bundle
    from recsys.bundle.publish import resolve
    from recsys.errors import PreconditionError, RequestError, UsageError
    from services.rpc.settings import MAX_K

    started = time.monotonic()
    if not 1 <= k <= MAX_K:
        raise RequestError("k", k, f"must be between 1 and {MAX_K}")
    if stage not in STAGES:
        raise UsageError(f"--stage {stage}: must be one of {', '.join(STAGES)}")
    _check_out(out)
    chosen = _chosen(users, data)
    query = BatchQuery(k, stage == RECOMMEND, _parts(channels), exclude_seen, tuple(_filter(text) for text in filters))
    opened = open_bundle(resolve(bundle))
    user_ids = opened.users.user_ids if chosen.ids is None else chosen.ids
    if not len(user_ids):
        raise PreconditionError(f"bundle {opened.version} knows no user; give --users, they are answered as new ones")
    columns = Columns(opened.catalogue, query.channels or tuple(opened.channels), _parts(attributes), chosen.keys)
    tally = _Tally(len(user_ids))
    try:
        with batch_file(out, columns) as write:
            for part in tally.shown(answers(opened, query, user_ids, workers or cores())):
                write(part)
    except KeyboardInterrupt:
        text_console(stderr=True).print(f"interrupted; {out} is as it was")
        raise typer.Exit(1) from None
    tally.say(out, opened, time.monotonic() - started)


def _check_out(out: Path) -> None:
    """Refuses a file that cannot be written, before the work.

    Raises:
        UsageError: says why.
    """
    from recsys.errors import UsageError

    if out.suffix != SUFFIX or out.is_dir():
        raise UsageError(f"--out {out}: give the name of a file that ends in {SUFFIX}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: its folder cannot be made ({error.strerror}); give another file") from None
    if not os.access(out.parent, os.W_OK):
        raise UsageError(f"--out {out}: {out.parent} cannot be written to; give another file")


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Whom to answer (None = all of the bundle), and the strings that their ids are hashes of."""

    ids: Ids | None = None
    keys: pl.DataFrame | None = None


def _chosen(users: Path | None, data: Path | None) -> _Chosen:
    from recsys.data.dataset import Dataset
    from recsys.data.user_lists import read_users

    keys = Dataset.open(data).user_keys() if data is not None else None
    if users is None:
        return _Chosen(keys=keys)
    listed = read_users(users)
    return _Chosen(listed.ids, keys if listed.keys is None else listed.keys)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _filter(text: str) -> AttributeFilter:
    """ATTRIBUTE=VALUE|VALUE… or ATTRIBUTE=MIN..MAX, where either bound may be left out.

    Raises:
        UsageError: for anything else.
    """
    from recsys.errors import UsageError
    from recsys.retrieval.filters import AttributeFilter

    attribute, equals, wanted = text.partition("=")
    if not attribute or not equals or not wanted or wanted == "..":
        raise UsageError(f"--filter {text}: write ATTRIBUTE=VALUE|VALUE or ATTRIBUTE=MIN..MAX")
    bounds = _BOUNDS.fullmatch(wanted)
    if bounds is None:
        return AttributeFilter(attribute, tuple(wanted.split("|")))
    low, high = (None if bound is None else float(bound) for bound in bounds.groups())
    return AttributeFilter(attribute, (), low, high)


class _Tally:
    """What was done so far: shown while it is done, summed up in the end."""

    def __init__(self, total: int) -> None:
        self._total, self._users, self._rows, self._cold = total, 0, 0, 0
        self._began = math.inf

    def shown(self, parts: Iterable[Part]) -> Iterator[Part]:
        """The parts, counted; a bar on a terminal, a line now and then elsewhere."""
        columns = (TextColumn("users"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        said = time.monotonic()
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
            task = progress.add_task("users", total=self._total)
            for part in parts:
                yield part
                self._count(part)
                progress.update(task, completed=self._users)
                if not console.is_terminal and time.monotonic() - said > _PLAIN_LINE_SECONDS:
                    said = time.monotonic()
                    console.print(f"{self._users:,} of {self._total:,} users")

    def _count(self, part: Part) -> None:
        self._began = min(self._began, part.began)
        self._users += len(part.user_ids)
        self._rows += len(part.candidates.rows)
        self._cold += int(part.cold.sum())

    def say(self, out: Path, bundle: Bundle, seconds: float) -> None:
        """The summary: what there is, how fast it was made."""
        steady = self._users / (time.monotonic() - self._began)
        size = out.stat().st_size / 1e6
        console.print(
            f"{self._rows:,} rows for {self._users:,} users of bundle {bundle.version} in {out} ({size:.1f} MB)"
        )
        if self._cold:
            console.print(
                f"{self._cold:,} of them have no history here: they were answered as the server answers new users"
            )
        console.print(f"{steady:,.0f} users/s from the first answer to the whole file; {seconds:.1f} s with all starts")
