"""The report: figures worked out by hand on the toy set, the contract of report.json, a page that stands alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundle.bundle import open_bundle
from recsys.data.catalogue import Catalogue
from recsys.data.dataset import Dataset
from recsys.data.splits import Holdout, split
from recsys.errors import PreconditionError
from recsys.evaluate.evaluation import EvaluationConfig
from recsys.evaluate.protocols import held_out_bundles
from recsys.evaluate.report import evaluate
from recsys.evaluate.section import Figure, Html, Section, Table

METRICS = {"hr@10", "ndcg@10", "recall@50", "recall@100", "recall@500", "mrr"}


def report_on(path: Path, dataset: Dataset, out: Path, **options: Any) -> dict[str, Any]:
    asked, folders = held_out_bundles(path)
    bundles = {protocol: open_bundle(folder) for protocol, folder in folders.items()}
    config = options.pop("config", EvaluationConfig(latency_users=3, baselines=False))
    return evaluate(bundles, dataset, out, asked=asked, config=config, **options)


@pytest.fixture
def toy_report(toy: Dataset, write_bundle, tmp_path: Path) -> dict[str, Any]:
    return report_on(write_bundle(toy, "last"), toy, tmp_path / "report")


def test_popularity_as_served_has_the_figures_worked_out_by_hand(toy_report: dict[str, Any]) -> None:
    """The toy bundle counts all events: 10: 3, 20: 3, 30: 4, 40: 3, 50: 2, 60: 3, 70: 2, 80: 0.

    User 1: 40 ties with 60, rank 2. User 2: 30 leads, 1. User 3: 60 ties with 10, 2. User 6: 70 behind 10, 20: 3.
    """
    row = toy_report["protocols"]["leave_one_out"]["models"]["popularity"]
    assert row["n"] == 4
    assert row["hr@10"] == 1.0
    assert row["mrr"] == pytest.approx((1 / 2 + 1 + 1 / 2 + 1 / 3) / 4, abs=1e-6)
    assert row["ndcg@10"] == pytest.approx((2 / np.log2(3) + 1 + 1 / 2) / 4, abs=1e-6)
    assert row["coverage@100"] == 1.0


def test_the_file_is_the_contract(toy: Dataset, write_bundle, tmp_path: Path) -> None:
    path = write_bundle(toy, "last")
    returned = report_on(path, toy, tmp_path / "report")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report == returned
    assert {"bundle_version", "dataset", "holdout", "protocols", "conversion", "cost"} <= set(report)
    assert report["bundle_version"] == path.name
    assert report["holdout"] == "last"
    found = report["protocols"]["leave_one_out"]
    assert {"two_tower", "popularity", "item_knn", "cascade"} == set(found["models"])
    for row in found["models"].values():
        assert set(row) == METRICS | {"n", "coverage@100", "ci95"}
        assert set(row["ci95"]) == METRICS
        assert all(low <= row[name] <= high for name, (low, high) in row["ci95"].items())
    for stage in found["cascade"]:
        assert set(stage) == {"stage", "count_in", "count_out", "recall", "micros"}


def test_yardsticks_are_rows_and_those_that_cannot_be_say_why(toy: Dataset, write_bundle, tmp_path: Path) -> None:
    config = EvaluationConfig(latency_users=1)
    report = report_on(write_bundle(toy, "last"), toy, tmp_path, config=config)
    found = report["protocols"]["leave_one_out"]
    assert {"recent_popularity", "item_knn_cosine", "ease", "ease_recency", "ials"} <= set(found["models"])
    assert found["skipped"] == {}
    without = report_on(write_bundle(toy, "last"), toy, tmp_path)["protocols"]["leave_one_out"]
    assert set(without["skipped"]) == {"recent_popularity", "item_knn_cosine", "ease", "ease_recency", "ials"}
    assert "--no-baselines" in without["skipped"]["ease"]


def test_what_the_bundle_brings_is_compared_with_every_yardstick(toy: Dataset, write_bundle, tmp_path: Path) -> None:
    report = report_on(write_bundle(toy, "last"), toy, tmp_path, config=EvaluationConfig(latency_users=1))
    found = report["protocols"]["leave_one_out"]
    yardsticks = {"popularity", "recent_popularity", "item_knn_cosine", "ease", "ease_recency", "ials"}
    assert set(found["leads"]) == {"two_tower", "item_knn", "cascade"}
    assert all(set(leads) == yardsticks for leads in found["leads"].values())
    for model, leads in found["leads"].items():
        for yardstick, measures in leads.items():
            lead, low, high = measures["recall@50"]
            rows = found["models"]
            assert lead == pytest.approx(rows[model]["recall@50"] - rows[yardstick]["recall@50"], abs=2e-6)
            assert low <= lead <= high
    page = (tmp_path / "report.html").read_text()
    assert "two_tower over EASE, recency-weighted" in page


def test_the_funnel_follows_every_item_to_the_end(toy_report: dict[str, Any]) -> None:
    stages = {stage["stage"]: stage for stage in toy_report["protocols"]["leave_one_out"]["cascade"]}
    assert list(stages) == [
        "recall:item_knn",
        "recall:popularity",
        "recall:two_tower",
        "recall",
        "merge",
        "pre_rank",
        "top_k",
    ]
    assert stages["recall"]["recall"] == 1.0
    assert stages["merge"]["count_in"] == pytest.approx(
        sum(stages[f"recall:{name}"]["count_out"] for name in ("popularity", "item_knn", "two_tower"))
    )
    assert stages["top_k"]["recall"] == toy_report["protocols"]["leave_one_out"]["models"]["cascade"]["hr@10"]


def test_the_time_split_ranks_only_items_known_at_the_cut(planted: Dataset, write_bundle, tmp_path: Path) -> None:
    divided = split(planted, Catalogue.from_dataset(planted), Holdout.parse("time:0.2"))
    assert divided.test is not None
    assert divided.test.eligible is not None
    report = report_on(write_bundle(planted, "time:0.2"), planted, tmp_path)
    found = report["protocols"]["global_time"]
    assert found["candidates"] == divided.test.eligible.count
    assert found["dropped_not_eligible"] == divided.test.dropped
    assert found["dropped_repeated"] == divided.test.repeated > 0
    assert found["models"]["popularity"]["n"] == len(divided.test)
    assert found["lists"]["popularity"]["new_item_share@100"] is not None


def test_a_refit_bundle_is_reported_by_its_twins(toy: Dataset, write_bundle, tmp_path: Path) -> None:
    last, time = write_bundle(toy, "last"), write_bundle(toy, "time:0.2")
    refit = write_bundle(toy, "none", refit=True, twins={"leave_one_out": last.name, "global_time": time.name})
    report = report_on(refit, toy, tmp_path)
    assert report["bundle_version"] == refit.name
    assert report["holdout"] == "last,time:0.2"
    assert {name: found["bundle_version"] for name, found in report["protocols"].items()} == {
        "leave_one_out": last.name,
        "global_time": time.name,
    }
    page = (tmp_path / "report.html").read_text()
    assert "held-out twins" in page
    assert last.name in page


def test_a_bundle_that_saw_the_events_is_refused_and_nothing_is_written(
    toy: Dataset, write_bundle, tmp_path: Path
) -> None:
    leaked = open_bundle(write_bundle(toy, "none"))
    with pytest.raises(PreconditionError, match="was trained on events"):
        evaluate({"leave_one_out": leaked}, toy, tmp_path / "report", asked=leaked.manifest)
    assert not (tmp_path / "report").exists()


class Page(HTMLParser):
    """Collects what a browser would fetch, ids and links, and checks that elements close."""

    void = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag not in self.void:
            self.open.append(tag)
        self.fetched += [str(named[name]) for name in ("src", "srcset", "data", "action") if named.get(name)]
        if tag in {"link", "script", "iframe", "object"}:
            self.fetched.append(tag)
        self.ids += [named["id"]] if named.get("id") else []
        self.links += [named["href"]] if named.get("href") else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.remove(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(toy_report: dict[str, Any], tmp_path: Path) -> None:
    text = (tmp_path / "report" / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.fetched == []
    assert not re.search(r"(src|href)\s*=\s*['\"]?\s*(https?:)?//", text)
    assert not re.search(r"@import|url\(", text)
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert "Eraserhead" in text


def test_recipes_add_sections_and_what_comes_from_data_is_escaped(toy: Dataset, write_bundle, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def sections(component: Path, report: Mapping[str, Any]) -> list[Section]:
        asked.update(component=component.name, protocols=list(report["protocols"]))
        table = Table(("field", "weight"), [("<b>genre</b>", 0.25), ("year", None), ("items", 1200)], "Weights.")
        return [Section("Field <weights>", "", [table, Figure("<svg></svg>"), Html("<p>as it is</p>")])]

    report_on(write_bundle(toy, "last"), toy, tmp_path, sections={"two_tower": sections, "absent": sections})
    page = (tmp_path / "report.html").read_text()
    assert asked == {"component": "two_tower", "protocols": ["leave_one_out"]}
    assert "Field &lt;weights&gt;" in page
    assert "&lt;b&gt;genre&lt;/b&gt;" in page
    assert "<td>0.2500</td>" in page
    assert "<td>–</td>" in page
    assert "<td>1,200</td>" in page
    assert "<p>as it is</p>" in page


def test_titles_are_escaped(toy: Dataset, write_bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = [f"<script>{row}</script>" for row in range(8)]
    monkeypatch.setattr(Catalogue, "titles", lambda self: titles)
    report_on(write_bundle(toy, "last"), toy, tmp_path)
    assert "<script>" not in (tmp_path / "report.html").read_text()


def test_fewer_events_are_those_of_users_drawn_at_random(planted: Dataset, write_bundle, tmp_path: Path) -> None:
    config = EvaluationConfig(max_events=20, latency_users=1, baselines=False)
    report = report_on(write_bundle(planted, "last"), planted, tmp_path, config=config)
    assert report["protocols"]["leave_one_out"]["events"] == 20
    assert "Users were drawn at random from" in (tmp_path / "report.html").read_text()
