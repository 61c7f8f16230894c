"""`recsys bench`: figures, with the machine they were taken on. One module a verb."""

from __future__ import annotations

import typer

from services.cli.bench import index, otm, quality, serve, tower, train, tree

app = typer.Typer(name="bench", help="Figures, with the machine they were taken on.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Figures, with the machine they were taken on."""


index.register(app)
otm.register(app)
quality.register(app)
serve.register(app)
tower.register(app)
train.register(app)
tree.register(app)
