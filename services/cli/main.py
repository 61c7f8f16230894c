"""The `recsys` command: mounts the verb groups and turns errors into one sentence and an exit code."""

from __future__ import annotations

import sys

import typer
from rich.text import Text

import recsys
from recsys.errors import RecsysError
from services.cli import batch, bench, bundle, data, demo, doctor, evaluate, events, recall, serve, store, train
from services.cli.consoles import text_console

app = typer.Typer(
    name="recsys",
    help="A recommender's retrieval and ranking service: data, training, evaluation, serving.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(recsys.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """A recommender's retrieval and ranking service: data, training, evaluation, serving."""


app.add_typer(data.app)
train.register(app)
evaluate.register(app)
app.add_typer(bench.app)
app.add_typer(bundle.app)
app.add_typer(store.app)
serve.register(app)
recall.register(app)
batch.register(app)
app.add_typer(events.app)
demo.register(app)
doctor.register(app)


def main() -> None:
    """Entry point: exit code 0, 1 (failed) or 2 (bad usage or input); no traceback for a user's mistake."""
    try:
        app()  # bad usage, an interrupt and typer.Exit end the process in there, with their own codes
    except RecsysError as error:
        _say(str(error))
        sys.exit(error.exit_code)


def _say(sentence: str) -> None:
    text_console(stderr=True).print(Text.assemble(("error:", "bold red"), " ", sentence))


if __name__ == "__main__":
    main()
