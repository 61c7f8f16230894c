"""`recsys train`: from a dataset to a published bundle, through Ray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from services.cli.consoles import text_console

if TYPE_CHECKING:
    from pipelines.presets import PipelineConfig
    from pipelines.training import TrainingRun
    from recsys.data.dataset import Dataset

console = text_console(wide=True)


def register(app: typer.Typer) -> None:
    """Adds the verb `train`."""
    app.command("train")(train)


def train(
    preset: str = typer.Option(..., help="demo, movielens_1m, marketplace, auto, or a TOML file."),
    data: Path | None = typer.Option(
        None, help="Dataset directory, as `recsys data` makes them; only --print-config does without."
    ),
    out: Path = typer.Option(Path("runs/train"), help="Gets steps/, bundles/ and run.json; a re-run continues there."),
    only: str = typer.Option("", help="Recipes to fit, separated by commas; what they need is fitted too."),
    holdout: list[str] = typer.Option([], help="none, last or time:SHARE; may be given several times."),
    refit: bool | None = typer.Option(
        None, "--refit/--no-refit", help="Fit once more on everything, for as many epochs as the held-out twin chose."
    ),
    no_publish: bool = typer.Option(False, "--no-publish", help="Leave the version that is served as it is."),
    address: str | None = typer.Option(None, help="A Ray cluster that shares DATA and OUT; else this machine."),
    workers: int | None = typer.Option(
        None, "--workers", "--num-workers", min=1, help="Processes that a fit with a gradient is divided among."
    ),
    warm_start: Path | None = typer.Option(
        None, help="The --out of an earlier run, or a bundle: fits begin with its weights; new rows are added."
    ),
    settings: list[str] = typer.Option([], "--set", help="Change a setting: two_tower.dim=64; may be repeated."),
    print_config: bool = typer.Option(False, "--print-config", help="Print the configuration as TOML and stop."),
) -> None:
    """Train every model of a preset and publish the bundle."""
    from pipelines.display import shown
    from pipelines.presets import load_preset
    from pipelines.toml_text import to_toml
    from pipelines.training import run_training
    from pipelines.training_graph import refuse_unusable
    from recsys.config import override
    from recsys.data.dataset import Dataset
    from recsys.errors import UsageError

    if data is None and not print_config:
        raise UsageError("--data is missing: give a dataset directory, as `recsys data fetch` or `import` makes them")
    dataset = None if data is None else Dataset.open(data)
    config = override(load_preset(preset, dataset), settings)
    chosen = [] if dataset is None else _features_chosen(config, dataset)
    names = [name.strip() for name in only.split(",") if name.strip()]
    if data is None or print_config:
        asked = config.replaced(holdouts=holdout, refit=refit, recipes=names, workers=workers)
        refuse_unusable(asked)
        print("".join(f"# {line}\n" for line in chosen), end="")
        print(to_toml(asked.model_dump(mode="json")), end="")
        return
    for line in chosen:
        console.print(line)
    try:
        with shown(Console(soft_wrap=True, highlight=False, emoji=False)) as display:
            run = run_training(
                config,
                data,
                out,
                display=display,
                holdouts=holdout,
                refit=refit,
                publish_it=not no_publish,
                only=names,
                address=address,
                workers=workers,
                warm_start=warm_start,
            )
    except KeyboardInterrupt:
        text_console(stderr=True).print("interrupted; the same command continues from there")
        raise typer.Exit(1) from None
    _summarise(run, data, out)


def _features_chosen(config: PipelineConfig, dataset: Dataset) -> list[str]:
    """One line a column: what became of it and why; none where the features were given."""
    from recsys.features.auto import infer_features

    inferred = infer_features(dataset)
    return inferred.describe().splitlines() if config.definition(dataset) == inferred.definition else []


def _summarise(run: TrainingRun, data: Path, out: Path) -> None:
    table = Table("step", "seconds", "", "result", box=None, header_style="bold")
    for name, step in run.steps.items():
        seconds = f"{step.seconds:.1f}"
        table.add_row(name, seconds, "done before" if step.cached else "", _figures(step.result))
    console.print(table)
    publish = f"recsys bundle publish {run.version} --bundles {run.bundles}"
    state = "is published" if run.published else f"is not published; to serve it: {publish}"
    console.print(f"\nBundle {run.version} {state}")
    console.print(f"Measure it:  recsys evaluate --bundle {run.bundles} --data {data} --out {out / 'report'}")
    console.print(f"Serve it:    recsys serve --bundles {run.bundles}")


def _figures(result: object) -> str:
    """Numbers of a step's result, and the version of a bundle."""
    assert isinstance(result, dict)
    figures = [f"{name} {value:.4g}" for name, value in result.items() if isinstance(value, int | float)]
    return "  ".join([*figures, str(result["version"])] if "version" in result else figures)
