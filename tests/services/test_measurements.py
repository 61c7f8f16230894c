"""Counts of many workers add up, and survive the way between processes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.rpc.exposition import Gauges, ServerCollector
from services.rpc.measurements import CALL_SECONDS, CALLS, Measurements

calls = st.lists(st.tuples(st.sampled_from(["Recall", "Score"]), st.sampled_from(["OK", "INTERNAL"]), st.floats(0, 20)))


def counted(observed: list[tuple[str, str, float]]) -> Measurements:
    measurements = Measurements()
    for rpc, code, seconds in observed:
        measurements.count(CALLS, rpc, code)
        measurements.observe(CALL_SECONDS, seconds, rpc)
    return measurements


@given(calls, calls)
def test_two_workers_count_together_what_one_would_have_counted(first: list, second: list) -> None:
    merged = Measurements.merged([counted(first), counted(second)])
    alone = counted(first + second)
    assert merged.counters == alone.counters
    assert {key: h.counts for key, h in merged.histograms.items()} == {
        key: h.counts for key, h in alone.histograms.items()
    }


@given(calls)
def test_a_snapshot_reads_as_it_was_written(observed: list) -> None:
    measurements = counted(observed)
    assert Measurements.from_json(measurements.to_json()) == measurements


def test_calls_are_told_from_failed_calls() -> None:
    measurements = counted([("Recall", "OK", 0.1), ("Recall", "INTERNAL", 0.1), ("Score", "OK", 0.1)])
    assert measurements.calls(failed=False) == 3
    assert measurements.calls(failed=True) == 1


def test_buckets_are_cumulative_and_end_with_all_observations() -> None:
    measurements = counted([("Recall", "OK", seconds) for seconds in (0.0001, 0.003, 0.003, 99.0)])
    gauges = Gauges(versions=("a", "a", "b", ""), in_flight=0, restarts=0, store_available=True, uptime=1.0)
    families = {family.name: family for family in ServerCollector(lambda: (measurements, gauges)).collect()}
    buckets = [s.value for s in families[CALL_SECONDS].samples if s.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[-2], buckets[-1]) == (1, 3, 4)
    versions = {s.labels["version"]: s.value for s in families["recsys_bundle_workers"].samples}
    assert versions == {"a": 2, "b": 1}
    assert families["recsys_workers_serving"].samples[0].value == 3
