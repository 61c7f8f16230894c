"""`recsys bundle`: which versions there are, whether one is whole, which one is served."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from services.cli.consoles import text_console

app = typer.Typer(name="bundle", help="Versions of what is served.", no_args_is_help=True)
console = text_console(wide=True)

BUNDLES = typer.Option(Path("runs/demo/bundles"), "--bundles", help="The folder that holds the versions.")


@app.command("list")
def list_versions(bundles: Path = BUNDLES, as_json: bool = typer.Option(False, "--json", help="For machines.")) -> None:
    """List all versions, oldest first; the one that is served is marked."""
    from recsys.bundle.publish import Listed, list_bundles
    from recsys.errors import UsageError

    if not bundles.is_dir():
        raise UsageError(f"--bundles {bundles}: there is no such folder; give the one that `recsys train` has made")

    def row(listed: Listed) -> dict[str, object]:
        manifest = listed.manifest
        return {
            "version": listed.version,
            "served": listed.current,
            "holdout": None if manifest is None else "refit" if manifest.split.refit else manifest.split.holdout,
            "dataset": None if manifest is None else manifest.dataset.name,
            "components": None if manifest is None else list(manifest.metrics),
            "bytes": None if manifest is None else sum(entry.size for entry in manifest.files.values()),
        }

    rows = [row(listed) for listed in list_bundles(bundles)]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("", "version", "hold-out", "dataset", "components", "MB", box=None, header_style="bold")
    for entry in rows:
        served, version = "→" if entry["served"] else "", str(entry["version"])
        if entry["components"] is None:
            table.add_row(served, version, Text("its manifest cannot be read", style="red"))
            continue
        components = entry["components"]
        assert isinstance(components, list)
        assert isinstance(entry["bytes"], int)
        size = f"{entry['bytes'] / 1e6:.1f}"
        table.add_row(served, version, str(entry["holdout"]), str(entry["dataset"]), ", ".join(components), size)
    console.print(table if rows else f"{bundles} holds no version")


@app.command("verify")
def verify_version(
    version: str = typer.Argument("", help="A version, or the path of a bundle; left out, the one that is served."),
    bundles: Path = BUNDLES,
) -> None:
    """Check every file of a version against its manifest and open it as a server would."""
    from recsys.bundle.publish import bundle_path, current, verify

    path = Path(version) if "/" in version else bundle_path(bundles, version) if version else current(bundles)
    found = verify(path)
    console.print(f"{path}: whole; {found.files} files, {found.bytes / 1e6:.1f} MB")
    for info in found.components:
        console.print(f"  {info.name}: {info.kind}, {info.type}, {len(info.files)} files")


@app.command("publish")
def publish_version(version: str = typer.Argument(..., help="The version to serve."), bundles: Path = BUNDLES) -> None:
    """Verify a version and make it the one to serve; running servers switch to it."""
    from recsys.bundle.publish import publish

    publish(bundles, version)
    console.print(f"{version} is published; servers of {bundles} switch to it now")


@app.command("rollback")
def roll_back(bundles: Path = BUNDLES) -> None:
    """Make the version that was served before the one to serve again."""
    from recsys.bundle.publish import rollback

    console.print(f"{rollback(bundles).name} is published again; servers of {bundles} switch to it now")
