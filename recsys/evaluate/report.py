"""The report: report.json for machines that compare, one self-contained report.html for people who read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from recsys.bundle.bundle import Bundle
from recsys.bundle.component import COMPONENTS_FOLDER
from recsys.bundle.manifest import Manifest
from recsys.data.dataset import Dataset
from recsys.errors import MissingPartError
from recsys.evaluate import views
from recsys.evaluate.baselines import title_of
from recsys.evaluate.evaluation import (
    EvaluationConfig,
    ProtocolResult,
    best_yardstick,
    evaluate_protocol,
    leader,
)
from recsys.evaluate.latency import Latency, latencies
from recsys.evaluate.leads import leads_section
from recsys.evaluate.markup import block_html, percent
from recsys.evaluate.protocols import PROTOCOL_TITLES
from recsys.evaluate.provenance import Provenance, peak_memory_mib
from recsys.evaluate.results import Progress, Quiet
from recsys.evaluate.section import Html, Section
from recsys.files import write_text

if TYPE_CHECKING:
    from jinja2 import Template

REPORT_JSON: Final = "report.json"
REPORT_HTML: Final = "report.html"

SectionMaker: TypeAlias = Callable[[Path, Mapping[str, Any]], Sequence[Section]]
"""What a recipe adds: (folder of its component, report.json so far) → sections."""


@dataclass(frozen=True, slots=True)
class Part:
    """A chapter of the report: an anchor, a heading, sections."""

    id: str
    title: str
    sections: Sequence[Section]


def evaluate(
    bundles: Mapping[str, Bundle],
    dataset: Dataset,
    out: Path,
    *,
    asked: Manifest,
    config: EvaluationConfig | None = None,
    sections: Mapping[str, SectionMaker] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates bundles, writes report.html and report.json into `out` and returns the latter.

    Args:
        bundles: protocol → the bundle to evaluate under it, fitted without that protocol's test events.
        dataset: what they were trained on.
        out: folder of the report; made when it is not there.
        asked: manifest of the bundle that the report is about (the twins' refit, or one of `bundles`).
        config: how much is evaluated.
        sections: component's name → what its recipe adds to the report.
        progress: told what is happening.

    Raises:
        PreconditionError: when a bundle has seen the events it would be asked about.
        MissingPartError: when Jinja2 is not installed.
    """
    template = _template()  # what is missing is said before the work, not after it
    config, progress = config or EvaluationConfig(), progress or Quiet()
    started, provenance = time.perf_counter(), Provenance.now()
    results = [evaluate_protocol(protocol, bundle, dataset, config, progress) for protocol, bundle in bundles.items()]
    first = results[0]
    progress.start("latency", 1)
    measured = latencies(first.bundle.cascade, first.events, dataset.users(), config.latency_users)
    report = _as_json(asked, dataset, results, measured, provenance, time.perf_counter() - started)
    added = _added(bundles, sections or {}, report)
    parts = _parts(dataset, results, measured, added)
    page = template.render(head=_head(asked, dataset, results, provenance, report), parts=parts)
    write_text(out / REPORT_HTML, page + "\n")
    write_text(out / REPORT_JSON, json.dumps(report, indent=2) + "\n")
    return report


def _as_json(
    asked: Manifest,
    dataset: Dataset,
    results: Sequence[ProtocolResult],
    measured: Sequence[Latency],
    provenance: Provenance,
    seconds: float,
) -> dict[str, Any]:
    return {
        "bundle_version": asked.version,
        "dataset": {
            "name": dataset.info.name,
            "content_hash": dataset.info.content_hash,
            **dataset.info.counts.model_dump(),
        },
        "holdout": ",".join(result.holdout for result in results),
        "protocols": {result.protocol: result.as_json() for result in results},
        "conversion": {},
        "cost": {
            **provenance.as_json(),
            "seconds": round(seconds, 2),
            "seconds_by_part": {result.protocol: dict(result.seconds) for result in results},
            "peak_memory_mib": round(peak_memory_mib(), 1),
            "latency": {one.stage: one.as_json() for one in measured},
        },
    }


def _added(
    bundles: Mapping[str, Bundle], sections: Mapping[str, SectionMaker], report: Mapping[str, Any]
) -> list[Section]:
    """What recipes say of the components of each bundle."""
    added: list[Section] = []
    for protocol, bundle in bundles.items():
        of = f", {PROTOCOL_TITLES[protocol].lower()}" if len(bundles) > 1 else ""
        for name in sorted(sections.keys() & bundle.components.keys()):
            made = sections[name](bundle.path / COMPONENTS_FOLDER / name, report)
            added += [replace(section, title=section.title + of) for section in made]
    return added


def _template() -> Template:
    """The page, with its style in place and blocks rendered by `block_html`."""
    try:
        from jinja2 import Environment
        from markupsafe import Markup
    except ImportError:
        raise MissingPartError("the report needs Jinja2: pip install 'recsys[train]'") from None
    folder = resources.files("recsys.evaluate") / "templates"
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["block"] = lambda block: Markup(block_html(block))
    environment.globals["style"] = Markup((folder / "report.css").read_text(encoding="utf-8"))
    return environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))


def _parts(
    dataset: Dataset, results: Sequence[ProtocolResult], measured: Sequence[Latency], added: Sequence[Section]
) -> list[Part]:
    parts = [Part(result.protocol, PROTOCOL_TITLES[result.protocol], _protocol(result)) for result in results]
    parts.append(Part("cost", "Cost", [views.latency_section(measured)]))
    if added:
        parts.append(Part("models", "From the models", added))
    parts.append(Part("method", "How to read this", [*_settings(results), _traps(results, dataset)]))
    return parts


def _head(
    asked: Manifest,
    dataset: Dataset,
    results: Sequence[ProtocolResult],
    provenance: Provenance,
    report: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "bundle": asked.version,
        "dataset": dataset.info.name,
        "cards": [_card(result) for result in results],
        "twins": _twins(asked, results),
        "facts": _facts(asked, dataset, results, provenance, report),
        "command": provenance.command,
    }


def _protocol(result: ProtocolResult) -> list[Section]:
    return [
        Section("", _description(result)),
        views.metrics_section(result.results, result.skipped),
        views.comparison_section(result.results),
        leads_section(result.results),
        views.curve_section(result.results),
        views.funnel_section(result.funnel),
        views.slices_section(result.slices, result.results),
        *(study.section() for study in result.studies),
        views.lists_section(result.results),
        views.examples_section(result.examples),
    ]


def _description(result: ProtocolResult) -> str:
    """What was asked, of how many, among how many."""
    asked = {
        "leave_one_out": "The last item of every user is to be predicted from all that came before it.",
        "global_time": "Every event after a moment is to be predicted by models that saw only what lies before "
        "it; users' histories roll forward.",
    }[result.protocol]
    events = result.events
    counted = f"{len(events):,} test events of {result.users:,} users, {result.candidates:,} candidates."
    left_out = []
    if events.dropped:
        left_out.append(f"{events.dropped:,} whose item was not known when training ended")
    if events.repeated:
        left_out.append(f"{events.repeated:,} whose item the user had already")
    notes = f" Left out: {' and '.join(left_out)}." if left_out else ""
    if result.cold:
        notes += f" {result.cold:,} events have no history at all: only what needs none can answer them."
    if result.drawn_from:
        notes += f" Users were drawn at random from {result.drawn_from:,}."
    return (
        f"{asked} {counted}{notes} Evaluated: bundle {result.bundle.version}, trained with --holdout {result.holdout}."
    )


def _card(result: ProtocolResult) -> dict[str, str]:
    """The headline of one protocol."""
    best, yardstick = leader(result.results), best_yardstick(result.results)
    low, high = best.intervals["hr@10"]
    lead, against = best.lead.get("hr@10"), ""
    if yardstick is not None and lead is not None:
        way = "points above" if lead[0] >= 0 else "points below"
        sure = "" if lead[1][0] > 0 or lead[1][1] < 0 else "; the difference could be chance"
        name = title_of(yardstick.name)
        against = (
            f"{abs(100 * lead[0]):.1f} {way} the best yardstick, {name} ({percent(yardstick.metrics['hr@10'])}){sure}."
        )
    return {
        "title": PROTOCOL_TITLES[result.protocol],
        "figure": percent(best.metrics["hr@10"]),
        "interval": f"{100 * low:.1f} – {100 * high:.1f}",
        "text": f"of {len(result.events):,} test events have the next item among the first ten of "
        f"{title_of(best.name)}.",
        "against": against,
    }


def _twins(asked: Manifest, results: Sequence[ProtocolResult]) -> str:
    """Says when what was evaluated is not what is served."""
    twins = {result.protocol: result.bundle.version for result in results if result.bundle.version != asked.version}
    if not twins:
        return ""
    named = "; ".join(f"{PROTOCOL_TITLES[protocol].lower()}: {version}" for protocol, version in twins.items())
    return (
        f"Bundle {asked.version} was fitted on every event, so none is left to ask it about. The figures are those "
        f"of its held-out twins, the same configuration fitted without the test events ({named})."
    )


def _facts(
    asked: Manifest,
    dataset: Dataset,
    results: Sequence[ProtocolResult],
    provenance: Provenance,
    report: Mapping[str, Any],
) -> list[tuple[str, str, bool]]:
    """(name, value, whether it takes a whole line)."""
    counts = dataset.info.counts
    return [
        ("Bundle", asked.version, False),
        ("Hold-out", ", ".join(result.holdout for result in results), False),
        ("Data", f"{counts.events:,} events, {counts.users:,} users, {counts.items:,} items", False),
        ("Data hash", dataset.info.content_hash[:16], False),
        ("Date", provenance.date.replace("T", " ").replace("+00:00", " UTC"), False),
        ("Duration", f"{report['cost']['seconds']:.0f} s, at most {report['cost']['peak_memory_mib']:,.0f} MiB", False),
        ("Machine", provenance.machine, False),
        ("Code", provenance.commit, False),
        ("Command", provenance.command, True),
    ]


def _settings(results: Sequence[ProtocolResult]) -> list[Section]:
    sections = []
    for result in results:
        section = views.settings_section(result.results)
        title = f"{section.title}, {PROTOCOL_TITLES[result.protocol].lower()}"
        sections.append(Section(title, section.intro, section.blocks))
    return sections


def _traps(results: Sequence[ProtocolResult], dataset: Dataset) -> Section:
    """What flatters or harms figures like these, and what was done about it."""
    notes = [
        "Every candidate is ranked: no sampled negatives, which would turn the order of models around.",
        "Ties count against a model: among equal scores the item takes the worst place. Item ids are often numbered by "
        "popularity, so that breaking ties by id gives a popularity ranking for free.",
        "Figures are means over test events, so users with many count for more; intervals resample whole users.",
        "Lists are looked at down to place 500 for every model alike; beyond it an item is missed (MRR included).",
        "Settings, epochs and yardsticks were chosen on validation events, taken from what remains after the hold-out.",
        "Leave one out lets models learn from events later than the test event of another user; the global time "
        "split does not. Only the latter is what production will see.",
        "Where many events share one second their order is arbitrary: the last item of a user is partly a coin toss.",
        "The intervals are of this test set. They do not include the chance in training: another seed, another model.",
        "Merged lists (the cascade) are judged by their order alone; scores of channels do not compare.",
    ]
    missing = [protocol for protocol in PROTOCOL_TITLES if protocol not in {result.protocol for result in results}]
    if "global_time" in missing:
        notes.append(
            "There is no global time split here: the data hold an order but no times."
            if dataset.info.time == "order"
            else "There is no global time split here: no bundle was trained with --holdout time:0.1."
        )
    if "leave_one_out" in missing:
        notes.append("There is no leave-one-out part here: no bundle was trained with --holdout last.")
    return Section("Traps", "", (Html('<ul class="traps">' + "".join(f"<li>{note}</li>" for note in notes) + "</ul>"),))
