"""What a person reads of one protocol: its tables and charts, as sections of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

import numpy as np

from recsys.evaluate import charts
from recsys.evaluate.baselines import title_of
from recsys.evaluate.examples import Example, Shown
from recsys.evaluate.funnel import FINAL, Ablation, Funnel, FunnelStage
from recsys.evaluate.latency import LENGTH, Latency
from recsys.evaluate.markup import micros, number, pair, panel, percent, row, signed, table
from recsys.evaluate.metrics import DEPTH, recall_curve
from recsys.evaluate.results import ModelResult, Slice
from recsys.evaluate.section import Block, Figure, Html, Section, Table

_COLUMNS: Final = ("hr@10", "ndcg@10", "recall@50", "recall@100", "recall@500", "mrr")
_HEADINGS: Final = ("HR@10", "NDCG@10", "Recall@50", "Recall@100", "Recall@500", "MRR", "Coverage@100")
_LINES: Final = 6
_CEILING_NOTE: Final = (
    " Ceiling: the data were simulated, and this row ranks by the true odds p_show · p_click of being clicked next, "
    "from interests that no model is told. Nothing ranks better on average; how close one can come is not known."
)


def ordered(results: Sequence[ModelResult]) -> list[ModelResult]:
    """Best NDCG@10 first."""
    return sorted(results, key=lambda result: -result.metrics["ndcg@10"])


def metrics_section(results: Sequence[ModelResult], skipped: Mapping[str, str]) -> Section:
    """The table of all models, best in bold, intervals below each figure, reasons for rows that are not there."""
    models = [result for result in results if result.contestant.kind != "ceiling"]
    best = {name: max(result.metrics[name] for result in models) for name in (*_COLUMNS, "coverage@100")}
    rows = [_metrics_row(result, best) for result in ordered(results)]
    width = len(_HEADINGS) + 1
    rows += [
        f'<tr class="skipped"><th scope="row">{escape(title_of(name))}</th>'
        f'<td colspan="{width}">not in the table: {escape(reason)}</td></tr>'
        for name, reason in skipped.items()
    ]
    columns = ("Model", *_HEADINGS, "NDCG@10 lead")
    caption = (
        "Means over test events, below them 95 % intervals (paired bootstrap over users). Bold: best of a column. "
        "Lead: over the best yardstick, paired."
    )
    return Section(
        "All models",
        "Every model ranks the full catalogue less the user's own history. Shaded rows are what the bundle serves; "
        "the others are yardsticks, tuned on validation.",
        (Html(panel(table(columns, rows, caption + (_CEILING_NOTE if len(models) < len(results) else "")))),),
    )


def _metrics_row(result: ModelResult, best: Mapping[str, float]) -> str:
    cells = [escape(title_of(result.name)) + _tag(result)]
    for name in (*_COLUMNS, "coverage@100"):
        value = result.metrics[name]
        is_best = value >= best[name] > 0 and result.contestant.kind != "ceiling"
        mark = ' class="best"' if is_best else ""
        cells.append(f"<span{mark}>{number(value)}</span>{_interval(result.intervals.get(name))}")
    lead = result.lead.get("ndcg@10")
    cells.append("–" if lead is None else f"{signed(lead[0])}{_signed_interval(lead[1])}")
    return row(cells, "ours" if result.contestant.is_ours else "")


def _tag(result: ModelResult) -> str:
    one = result.contestant
    words = {"channel": "channel", "cascade": "whole cascade", "ceiling": "knows the truth"}
    tag = words.get(one.kind, "served too" if one.served else "")
    return f'<span class="tag">{tag}</span>' if tag else ""


def _interval(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    return f'<span class="interval">{number(interval[0])} – {number(interval[1])}</span>'


def _signed_interval(interval: tuple[float, float]) -> str:
    return f'<span class="interval">{signed(interval[0])} to {signed(interval[1])}</span>'


def comparison_section(results: Sequence[ModelResult]) -> Section:
    """HR@10 and NDCG@10 as bars with intervals."""
    figures = [
        (heading, Figure(_bars(results, name, heading)))
        for name, heading in (("hr@10", "HR@10"), ("ndcg@10", "NDCG@10"))
    ]
    return Section(
        "At a glance",
        "Whiskers are 95 % intervals. Where two overlap, the paired difference in the table decides, not the overlap.",
        (pair(figures),),
    )


def _bars(results: Sequence[ModelResult], name: str, heading: str) -> str:
    kinds = {"channel": "model", "cascade": "cascade", "baseline": "baseline", "ceiling": "baseline"}
    rows = [
        charts.Bar(
            title_of(result.name),
            result.metrics[name],
            number(result.metrics[name], 3),
            result.intervals[name],
            kinds[result.contestant.kind],
        )
        for result in ordered(results)
    ]
    return charts.bars(rows, heading, "; ".join(f"{bar.label} {bar.text}" for bar in rows), width=570)


def curve_section(results: Sequence[ModelResult]) -> Section:
    """Recall at every length of the list."""
    ks = np.unique(np.round(np.geomspace(1, DEPTH, 40)).astype(np.int64))
    kinds = _line_kinds(results)
    chosen = [result for result in results if result.name in kinds]
    lines = [
        charts.Line(title_of(one.name), recall_curve(one.contestant.ranking.ranks, ks).tolist(), kinds[one.name])
        for one in chosen
    ]
    described = "; ".join(f"{one.name} {one.metrics['recall@500']:.3f} at 500" for one in chosen)
    drawn = charts.curves([float(k) for k in ks], lines, "Recall at k", described, x_label="k, length of the list")
    return Section(
        "Recall at k",
        "Share of test events whose item is among the first k. Left, what a user sees; right, what a later stage can "
        "still choose from.",
        (Figure(drawn),),
    )


def _line_kinds(results: Sequence[ModelResult]) -> dict[str, str]:
    """One style for each line that is drawn, the same in every chart: what is served first, then yardsticks."""
    first = sorted(ordered(results), key=lambda result: not result.contestant.is_ours)
    return {result.name: f"line-{i}" for i, result in enumerate(first[:_LINES])}


def funnel_section(funnel: Funnel) -> Section:
    """Recall, candidates and cost at each stage, and what each channel adds."""
    rows = [
        charts.Bar(
            _stage_title(stage),
            stage.recall,
            percent(stage.recall),
            stage.interval,
            "baseline" if stage.kind == "channel" else "cascade",
        )
        for stage in funnel.stages
    ]
    described = "; ".join(f"{bar.label} {bar.text}" for bar in rows)
    drawn = charts.bars(rows, "Recall at each stage", described)
    columns = ("Stage", "Candidates in", "Candidates out", "Recall", "Lost here", "Time a user")
    caption = "Means over test events. Time: wall clock of a batch of 1,000 users, divided by the users."
    lines = table(columns, [_stage_row(stage) for stage in funnel.stages], caption)
    blocks: list[Block] = [Figure(drawn), Html(panel(lines))]
    if funnel.pre_ranking:
        blocks.append(Html(f"<p>{escape(funnel.pre_ranking)}</p>"))
    if funnel.whole:
        blocks.append(Html(panel(_ablations(funnel, funnel.whole))))
    return Section(
        "Through the funnel",
        f"The cascade as it runs for {FINAL} recommendations: is the item that was chosen next in each channel's own "
        "list (grey), in any of them, and still there after every stage that follows? What one stage loses, none after "
        "it brings back. Filters and seen items are part of each search, so nothing is lost to them later.",
        blocks,
    )


def _stage_title(stage: FunnelStage) -> str:
    titles = {"recall": "any channel", "merge": "merged", "pre_rank": "pre-ranked", "rank": "ranked", "top_k": "shown"}
    return stage.stage.removeprefix("recall:") if stage.kind == "channel" else titles.get(stage.stage, stage.stage)


def _stage_row(stage: FunnelStage) -> str:
    cells = [
        f"<i>{escape(_stage_title(stage))}</i>" if stage.kind == "channel" else escape(_stage_title(stage)),
        _count(stage.count_in),
        _count(stage.count_out),
        percent(stage.recall, 2),
        percent(stage.lost, 2),
        micros(stage.micros),
    ]
    return row(cells)


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _ablations(funnel: Funnel, whole: Ablation) -> str:
    """What is left of the recall without each channel."""
    lines = [row(["all channels", percent(whole.merged, 2), "–", percent(whole.final, 2), "–"])]
    for one in funnel.ablations:
        merged, final = 100 * (one.merged - whole.merged), 100 * (one.final - whole.final)
        cells = [percent(one.merged, 2), signed(merged, 2), percent(one.final, 2), signed(final, 2)]
        lines.append(row([f"without {escape(one.channel)}", *cells]))
    columns = ("Funnel", "Recall, merged", "Change, points", f"Recall, {FINAL} shown", "Change, points")
    return table(columns, lines, f"What each channel adds, on {funnel.ablation_events:,} test events.")


def lists_section(results: Sequence[ModelResult]) -> Section:
    """Coverage, popularity bias, share of new items."""
    lines = []
    for result in ordered(results):
        kind = "ours" if result.contestant.is_ours else ""
        values = result.lists
        cells = [
            escape(title_of(result.name)),
            percent(result.metrics["coverage@100"]),
            number(values["popularity_percentile@100"], 3),
            number(values["gini@100"], 3),
            percent(values["new_item_share@100"]),
        ]
        lines.append(row(cells, kind))
    columns = ("Model", "Coverage", "Popularity percentile", "Gini", "New items")
    caption = (
        "Of the first 100 of every list. Coverage: share of the eligible items shown to anyone. Popularity percentile: "
        "0.5 = no bias. Gini: 0 = all items shown alike. New items: first seen in the last tenth of the training time."
    )
    return Section(
        "Beyond accuracy",
        "Whether a model knows the catalogue or only its head. Without real times nothing can be called new: a dash.",
        (Html(panel(table(columns, lines, caption))),),
    )


def slices_section(slices: Sequence[Slice], results: Sequence[ModelResult]) -> Section:
    """HR@10 by length of the history."""
    if not slices:
        return Section("By length of history", "Too few test events to divide.")
    names, kinds = list(slices[0].hit_rate), _line_kinds(results)
    lines = [
        charts.Line(
            title_of(name),
            [one.hit_rate[name][0] for one in slices],
            kinds.get(name, f"line-{_LINES - 1}"),
            [one.hit_rate[name][1] for one in slices],
        )
        for name in names
    ]
    labels = [f"{one.label}\nn = {one.n:,}" for one in slices]
    described = "; ".join(f"{one.label}: {one.hit_rate[names[0]][0]:.3f}" for one in slices)
    drawn = charts.categories(labels, lines, "HR@10 by length of history", described, x_label="events in the history")
    return Section(
        "By length of history",
        "HR@10 of test events grouped by how much the model knew of the user. Bars are 95 % intervals.",
        (Figure(drawn),),
    )


def examples_section(shown: Sequence[Example]) -> Section:
    """Histories and lists with titles."""
    return Section(
        "Examples",
        "Drawn at random among hits, near misses and one far off, judged by the best of the bundle's models. "
        "The item that was really next is marked.",
        tuple(Html(_example(one)) for one in shown),
    )


def _example(one: Example) -> str:
    trail = " › ".join(escape(title) for title in one.history) or "nothing yet"
    more = f"{one.length - len(one.history):,} earlier, then " if one.length > len(one.history) else ""
    place = f"place {one.rank}" if one.rank else "not in the first 100"
    lists = "".join(_shown(listed) for listed in one.shown)
    target = f"<b>{escape(one.target)}</b>"
    return (
        f'<article class="example"><p class="trail">User {escape(one.user)}: {more}{trail} › {target}</p>'
        f'<p class="soft">Next was {target}, {place}.</p><div class="lists">{lists}</div></article>'
    )


def _shown(listed: Shown) -> str:
    lines = "".join(
        f'<li class="hit">{escape(title)} <span aria-label="this was next">✓</span></li>'
        if place == listed.hit
        else f"<li>{escape(title)}</li>"
        for place, title in enumerate(listed.titles)
    )
    return f"<div><h4>{escape(title_of(listed.channel))}</h4><ol>{lines or '<li>nothing</li>'}</ol></div>"


def latency_section(measured: Sequence[Latency]) -> Section:
    """Median and 99th percentile of each stage for one user."""
    rows = [
        charts.Bar(
            one.stage.replace("recall:", "recall: "),
            one.p50,
            f"{micros(one.p50)} · {micros(one.p99)}",
            (one.p50, one.p99),
            "baseline" if one.stage.startswith("recall:") else "cascade" if one.stage != "whole" else "model",
        )
        for one in measured
    ]
    described = "; ".join(f"{bar.label} {bar.text}" for bar in rows)
    drawn = charts.bars(rows, "Latency by stage", described, unit=" µs")
    asked = f"{measured[0].requests:,} requests one by one, k = {LENGTH}"
    caption = f"Bar: median. Whisker: up to the 99th percentile. Figures: both. {asked}."
    return Section(
        "Latency by stage",
        "One user at a time, in the process that made this report: without network, feature store and other requests. "
        "recsys bench serve measures the service.",
        (Figure(drawn, caption),),
    )


def settings_section(results: Sequence[ModelResult]) -> Section:
    """How each yardstick came by its settings."""
    rows = [
        (title_of(result.name), result.contestant.note or "none", f"{result.contestant.fit_seconds:.1f} s")
        for result in results
        if not result.contestant.served
    ]
    return Section(
        "Settings of the yardsticks",
        "Chosen on validation events; the test events were looked at once.",
        (Table(("Yardstick", "Settings", "Fitting"), rows),) if rows else (),
    )
