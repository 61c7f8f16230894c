"""A retriever added by one file (toy_retriever.py) and one line is in the graph, the bundle, Recall and the report."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recsys.bundle.bundle import open_bundle
from recsys.bundle.publish import current
from recsys.recipes import RECIPES
from recsys.testing.planted import Planted, write_planted
from services.cli.main import main
from services.rpc.client import Client, wait_until_serving


@pytest.mark.usefixtures("local_ray")
def test_one_file_and_one_line_add_a_retriever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toy_retriever import AlphabetRecipe

    monkeypatch.setitem(RECIPES, "alphabet", AlphabetRecipe())  # the one line

    dataset = write_planted(tmp_path / "data", Planted(users=60, items=30, mean_length=8))
    data, out, report = dataset.path, tmp_path / "run", tmp_path / "report"
    flags = ["--preset", "demo", "--only", "popularity,alphabet", "--holdout", "last", "--no-refit"]
    recsys(monkeypatch, "train", *flags, "--data", data, "--out", out)

    graph = json.loads((out / "run.json").read_text())
    steps = ["prepare@last", "fit:popularity@last", "fit:alphabet@last", "merge@last", "bundle@last"]
    assert list(graph["steps"]) == steps
    assert graph["config"]["alphabet"] == {"z_first": True}

    bundle = open_bundle(current(out / "bundles"))
    assert bundle.components["alphabet"].type == "static"

    by_title = dataset.items().sort("title", descending=True)["item_id"].to_list()
    with served(out / "bundles") as address, Client(address) as client:
        answer = client.recall(k=5, channels=["alphabet"])
        assert answer.items.ids.tolist() == by_title[:5]
        assert {channel.name for channel in client.recall(k=5).channels} == {"popularity", "alphabet"}

    evaluate = ["--bundle", out / "bundles", "--data", data, "--out", report, "--no-baselines"]
    recsys(monkeypatch, "evaluate", *evaluate)
    assert "alphabet" in json.loads((report / "report.json").read_text())["protocols"]["leave_one_out"]["models"]
    assert f"Titles in order, for bundle {bundle.version}." in (report / "report.html").read_text()


def recsys(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Calls a verb in this process, where the line above counts; it must succeed."""
    monkeypatch.setattr(sys, "argv", ["recsys", *(str(argument) for argument in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code


@contextmanager
def served(bundles: Path) -> Iterator[str]:
    """A real server, which knows nothing of the new retriever."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    listen = ["--listen", address, "--admin-listen", "none", "--metrics-listen", "none", "--workers", "1"]
    command = [sys.executable, "-m", "services.cli.main", "serve", "--bundles", str(bundles), *listen]
    server = subprocess.Popen(command)
    try:
        assert wait_until_serving(address, seconds=60)
        yield address
    finally:
        server.terminate()
        server.wait()
