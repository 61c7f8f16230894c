"""One protocol of a report, start to end: models and yardsticks ranked, measured, followed through the funnel."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import polars as pl
from pydantic import Field

from recsys.bundle.bundle import Bundle
from recsys.config import Config
from recsys.data.dataset import Dataset
from recsys.data.interactions import EvaluationSet
from recsys.data.splits import Split, split
from recsys.errors import BundleError, DataError, MissingPartError, PreconditionError
from recsys.evaluate.baselines import BASELINES, FitData
from recsys.evaluate.ceiling import CEILING, ceiling, has_truth
from recsys.evaluate.cold_items import cold_items
from recsys.evaluate.examples import Example, examples
from recsys.evaluate.funnel import Funnel, trace
from recsys.evaluate.interest_study import interest_study
from recsys.evaluate.many_tastes import many_tastes
from recsys.evaluate.merge_study import merge_study
from recsys.evaluate.protocols import require_held_out, require_same_cut
from recsys.evaluate.ranking import eligible_count, rank_channel, rank_lists, rank_yardstick
from recsys.evaluate.real_time import real_time
from recsys.evaluate.results import (
    Contestant,
    ItemFacts,
    ModelResult,
    Progress,
    Slice,
    activity_slices,
    measure,
)
from recsys.evaluate.sampling import draw_users
from recsys.evaluate.study import Study
from recsys.evaluate.tuning import VALIDATION_EVENTS, tune
from recsys.types import Candidates, Users

CASCADE: Final = "cascade"
"""Name of the row of the whole cascade."""


class EvaluationConfig(Config):
    """How much is evaluated.

    Attributes:
        max_events: test events; of more, those of users drawn at random; 0 = all.
        baselines: whether to fit the yardsticks that the bundle does not serve itself.
        threads: for what runs threads of its own.
        latency_users: users asked one by one for the latencies.
        single_vector: the channel that one with several interests a user is compared with, where the bundle has both;
            None = two_tower.
    """

    max_events: int = Field(default=100_000, ge=0)
    baselines: bool = True
    threads: int = Field(default=1, ge=1)
    latency_users: int = Field(default=200, ge=1)
    single_vector: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ProtocolResult:
    """All that was found out under one protocol.

    Attributes:
        protocol: as in report.json.
        bundle: the bundle evaluated (the held-out twin of a refit one).
        holdout: as on the command line.
        events: the test events.
        users, cold: how many users they are of, and how many events have no history at all.
        drawn_from: users there were before sampling; None without sampling.
        candidates: items a model could choose from, before the user's own history is taken out.
        results: one a model.
        skipped: yardstick → why it has no row.
        funnel, slices, examples, studies: see there.
        seconds: wall clock by part.
    """

    protocol: str
    bundle: Bundle
    holdout: str
    events: EvaluationSet
    users: int
    cold: int
    drawn_from: int | None
    candidates: int
    results: Sequence[ModelResult]
    skipped: Mapping[str, str]
    funnel: Funnel
    slices: Sequence[Slice]
    examples: Sequence[Example]
    studies: Sequence[Study]
    seconds: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """The protocol's entry in report.json."""
        return {
            "models": {result.name: result.as_json() for result in self.results},
            "leads": {result.name: result.leads_as_json() for result in self.results if result.leads},
            "cascade": [stage.as_json() for stage in self.funnel.stages],
            "lists": {result.name: dict(result.lists) for result in self.results},
            "skipped": dict(self.skipped),
            "bundle_version": self.bundle.version,
            "holdout": self.holdout,
            "events": len(self.events),
            "users": self.users,
            "candidates": self.candidates,
            "dropped_not_eligible": self.events.dropped,
            "dropped_repeated": self.events.repeated,
            **{study.key: study.as_json() for study in self.studies},
        }


@dataclass(slots=True)
class _Clock:
    """Wall clock by part, read as each part ends."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now


def evaluate_protocol(
    protocol: str, bundle: Bundle, dataset: Dataset, config: EvaluationConfig, progress: Progress
) -> ProtocolResult:
    """Evaluates one bundle under one protocol.

    Raises:
        PreconditionError: when the bundle has seen the events it would be asked about.
        BundleError: when a channel or scorer of the bundle fails.
    """
    clock = _Clock()
    divided = split(dataset, bundle.catalogue, require_held_out(bundle.manifest, protocol, dataset))
    require_same_cut(bundle.manifest, divided)
    if divided.test is None or not len(divided.test):
        raise PreconditionError(f"{dataset.path}: no test event is left under {protocol}; it needs more events")
    events = draw_users(divided.test, config.max_events)
    attributes = dataset.users()
    clock.lap("split")
    contestants = _ranked_bundle(bundle, events, attributes, progress)
    clock.lap("bundle")
    yardsticks, skipped = _ranked_yardsticks(bundle, dataset, divided, events, config, progress)
    clock.lap("yardsticks")
    if has_truth(dataset):
        _add_ceiling(dataset, events, len(bundle.catalogue), yardsticks, skipped, progress)
        clock.lap("ceiling")
    facts = ItemFacts.of(divided.train, len(bundle.catalogue), dataset.info.time == "real")
    results = measure([*contestants, *yardsticks], events, facts)
    clock.lap("measures")
    progress.start(f"{protocol}: funnel", len(events))
    funnel = trace(bundle.cascade, events, len(bundle.catalogue), attributes, progress.advance)
    clock.lap("funnel")
    studies = _studies(bundle, dataset, divided, events, results, config, progress)
    clock.lap("studies")
    best = leader(results)
    served = [result for result in results if result.contestant.served]
    return ProtocolResult(
        protocol=protocol,
        bundle=bundle,
        holdout=bundle.manifest.split.holdout,
        events=events,
        users=len(np.unique(events.user)),
        cold=int(np.count_nonzero(events.history_end == 0)),
        drawn_from=len(np.unique(divided.test.user)) if len(events) < len(divided.test) else None,
        candidates=eligible_count(events, len(bundle.catalogue)),
        results=results,
        skipped=skipped,
        funnel=funnel,
        slices=activity_slices(_for_slices(results, served), events),
        examples=examples(
            bundle.channels,
            events,
            best.contestant.ranking.ranks,
            bundle.catalogue.titles(),
            attributes,
            dataset.user_keys(),
        ),
        studies=studies,
        seconds=_with_models(clock, results),
    )


def leader(results: Sequence[ModelResult]) -> ModelResult:
    """The best by NDCG@10 of what the bundle brings beside yardsticks; of all when it brings nothing else."""
    ours = [result for result in results if result.contestant.is_ours]
    return max(ours or results, key=lambda result: result.metrics["ndcg@10"])


def best_yardstick(results: Sequence[ModelResult]) -> ModelResult | None:
    """The yardstick with the best NDCG@10."""
    yardsticks = [result for result in results if result.contestant.kind == "baseline"]
    return max(yardsticks, key=lambda result: result.metrics["ndcg@10"], default=None)


def _ranked_bundle(
    bundle: Bundle, events: EvaluationSet, attributes: pl.DataFrame, progress: Progress
) -> list[Contestant]:
    """Every channel of the bundle, and the cascade of them all."""
    items, yardsticks = len(bundle.catalogue), {baseline.name for baseline in BASELINES}
    contestants = []
    for name, channel in bundle.channels.items():
        progress.start(name, len(events))
        ranking = rank_channel(channel, events, items, attributes, progress.advance)
        contestants.append(Contestant(name, "baseline" if name in yardsticks else "channel", ranking))

    def run(users: Users, k: int) -> Candidates:
        ranked = bundle.cascade.run(users, k, allowed=events.eligible)
        if ranked.degraded:
            raise BundleError(f"bundle {bundle.version}: {', '.join(ranked.degraded)} failed while it was evaluated")
        return ranked.candidates

    progress.start(CASCADE, len(events))
    ranking = rank_lists(run, events, items, attributes, by_order=True, advance=progress.advance)
    return [*contestants, Contestant(CASCADE, "cascade", ranking)]


def _ranked_yardsticks(
    bundle: Bundle,
    dataset: Dataset,
    divided: Split,
    events: EvaluationSet,
    config: EvaluationConfig,
    progress: Progress,
) -> tuple[list[Contestant], dict[str, str]]:
    """The yardsticks that the bundle does not serve, fitted here, and why some are not there."""
    data = FitData(divided.train, len(bundle.catalogue), dataset.info.time == "real", config.threads)
    validation = None if divided.validation is None else draw_users(divided.validation, VALIDATION_EVENTS)
    contestants, skipped = [], {}
    for baseline in BASELINES:
        if baseline.name in bundle.channels:
            continue
        refusal = baseline.refusal(data) if config.baselines else "left out by --no-baselines"
        if refusal is None and not validation:
            refusal = "there is no validation event to choose its settings by"
        if refusal is not None or validation is None:
            skipped[baseline.name] = str(refusal)
            continue
        progress.start(baseline.title, len(events))
        try:
            tuned = tune(baseline, data, validation)
        except MissingPartError as error:
            skipped[baseline.name] = str(error)
            continue
        ranking = rank_yardstick(tuned.model, events, data.items, progress.advance)
        contestants.append(Contestant(baseline.name, "baseline", ranking, False, tuned.note, tuned.seconds))
    return contestants, skipped


def _add_ceiling(
    dataset: Dataset,
    events: EvaluationSet,
    items: int,
    yardsticks: list[Contestant],
    skipped: dict[str, str],
    progress: Progress,
) -> None:
    """Adds what the truth of simulated data allows, or why that is not known."""
    progress.start(CEILING, len(events))
    try:
        yardsticks.append(ceiling(dataset, events, items, progress.advance))
    except DataError as error:
        skipped[CEILING] = str(error)


def _studies(
    bundle: Bundle,
    dataset: Dataset,
    divided: Split,
    events: EvaluationSet,
    results: Sequence[ModelResult],
    config: EvaluationConfig,
    progress: Progress,
) -> list[Study]:
    """The questions of their own, in the order of the report."""
    channels, catalogue, attributes = bundle.channels, bundle.catalogue, dataset.users()
    merge = merge_study(bundle.cascade, events, attributes, progress)
    studies: list[Study] = [] if merge is None else [merge]
    studies.append(real_time(channels, events, len(catalogue), attributes, progress))
    interests = interest_study(channels, events, catalogue, attributes, progress)
    if interests is not None:
        studies.append(interests)
        ranks = {result.name: result.contestant.ranking.ranks for result in results}
        single = config.single_vector or "two_tower"
        pairs = [(name, single) for name in interests.channels if single in channels]
        studies += [many_tastes(pair, ranks, events, catalogue, dataset) for pair in pairs]
    studies.append(cold_items(channels, divided, catalogue, attributes, progress))
    return studies


def _for_slices(results: Sequence[ModelResult], served: Sequence[ModelResult]) -> list[ModelResult]:
    """What slices compare: what is served beside yardsticks, the best yardstick, popularity; at most five."""
    chosen = [result for result in served if result.contestant.is_ours][:3]
    yardstick = best_yardstick(results)
    chosen += [yardstick] if yardstick else []
    chosen += [result for result in results if result.name == "popularity" and result is not yardstick]
    return chosen


def _with_models(clock: _Clock, results: Sequence[ModelResult]) -> dict[str, float]:
    """The clock's parts, and what of them the bundle's own models and the yardsticks' fits took."""
    of_bundle = [result.contestant for result in results if result.contestant.served]
    return {
        **{part: round(seconds, 3) for part, seconds in clock.seconds.items()},
        "of bundle: models": round(sum(one.ranking.model_seconds for one in of_bundle), 3),
        "of yardsticks: fits": round(sum(result.contestant.fit_seconds for result in results), 3),
    }
