"""What approximate engines promise beyond the contract: tuned to the target, mapped from disk, refused when cut."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from recsys.errors import BundleError, ConfigError
from recsys.index import graph, inverted_file
from recsys.index.approximate import ApproximateSearch
from recsys.index.config import IndexConfig, Kind, Metric
from recsys.index.dots import LONGEST
from recsys.index.engine import with_margin
from recsys.index.exact import ExactSearch
from recsys.index.graph import Graph
from recsys.index.inverted_file import InvertedFile
from recsys.index.recall import recall_at
from recsys.index.vector_index import VectorIndex
from recsys.types import Floats, RaggedRows, RowMask

COUNT, DIM, LISTS = 8_000, 16, 32
KINDS: tuple[Kind, ...] = ("ivf", "ivfpq", "hnsw")
FILES = {"ivf": "lists.faiss", "ivfpq": "lists.faiss", "hnsw": "graph.faiss"}


def world(spread: float, noise: float = 0.5) -> tuple[Floats, Floats]:
    """Items of different lengths around 100 centres, and queries about the same centres."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((100, DIM))
    items = centres[rng.integers(0, 100, COUNT)] + noise * rng.standard_normal((COUNT, DIM))
    items *= rng.lognormal(0, spread, (COUNT, 1))
    queries = centres[rng.integers(0, 100, 300)] + noise * rng.standard_normal((300, DIM))
    return items.astype(np.float32), queries.astype(np.float32)


ITEMS, QUERIES = world(0.3)


@pytest.fixture(scope="module", autouse=True)
def large_catalogue() -> Any:
    """As if the catalogue were so large that exact search is never faster; codes are trained briefly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inverted_file, "_ROTATIONS", 2)
        patch.setattr(graph, "_ROWS_A_STEP", 2)
        for module in (graph, inverted_file):
            patch.setattr(module, "FEW_ALLOWED", 100)
        yield


@pytest.fixture(scope="module")
def built() -> dict[tuple[Kind, Metric], VectorIndex]:
    """One index of each kind; by dot product, and by distance where that is another code path."""
    pairs: list[tuple[Kind, Metric]] = [(kind, "dot") for kind in KINDS] + [("ivf", "l2"), ("ivfpq", "l2")]
    config = IndexConfig(device="cpu", lists=LISTS, probe_limit=1.0, tuning_queries=100)
    return {
        pair: VectorIndex.build(ITEMS, config.model_copy(update={"kind": pair[0], "metric": pair[1]}), QUERIES)[0]
        for pair in pairs
    }


@pytest.fixture(params=KINDS)
def index(request: pytest.FixtureRequest, built: dict[tuple[Kind, Metric], VectorIndex]) -> VectorIndex:
    return built[request.param, "dot"]


def exact(metric: Metric = "dot") -> VectorIndex:
    return VectorIndex.build(ITEMS, IndexConfig(kind="flat", metric=metric, device="cpu"))[0]


def test_every_engine_is_tuned_to_the_target_and_finds_that_much(
    built: dict[tuple[Kind, Metric], VectorIndex],
) -> None:
    for (_, metric), index in built.items():
        assert index.report.warning is None
        assert index.report.recall_at_100 >= 0.99
        for k, least in ((10, 0.98), (100, 0.985), (1_000, 0.97)):
            found, best = index.search(QUERIES[:100], k)[1], exact(metric).search(QUERIES[:100], k)[1]
            assert recall_at(found, best) >= least


def test_under_a_filter_engines_find_the_best_still(index: VectorIndex) -> None:
    allowed = RowMask(np.random.default_rng(4).random(COUNT) < 0.1)
    found, best = index.search(QUERIES[:50], 50, allowed)[1], exact().search(QUERIES[:50], 50, allowed)[1]
    assert recall_at(found, best) >= 0.97


def test_exclusions_by_the_thousand_cost_no_answer(index: VectorIndex) -> None:
    best = np.argsort(-(ITEMS @ QUERIES[0]), kind="stable").astype(np.int32)
    for hidden in (50, 500, 6_000):
        rows, _ = index.search(QUERIES[:1], 1_000, None, RaggedRows.of([best[:hidden]]))
        assert (rows >= 0).all()
        assert not set(rows[0].tolist()) & set(best[:hidden].tolist())


def test_five_allowed_rows_are_found_among_all(index: VectorIndex) -> None:
    allowed = np.zeros(COUNT, bool)
    allowed[[7, 70, 700, 7_000, 7_900]] = True
    rows, _ = index.search(QUERIES[:3], 10, RowMask(allowed))
    assert all(set(found.tolist()) == {7, 70, 700, 7_000, 7_900, -1} for found in rows)


def test_each_of_a_batch_gets_what_it_gets_alone(index: VectorIndex) -> None:
    excluded = RaggedRows.of([np.arange(b, dtype=np.int32) for b in range(len(QUERIES))])
    rows, scores = index.search(QUERIES, 30, None, excluded)
    for b in range(len(QUERIES)):
        alone = index.search(QUERIES[b : b + 1], 30, None, RaggedRows.of([excluded[b]]))
        assert alone[0].tolist() == [rows[b].tolist()]
        assert alone[1].tolist() == [scores[b].tolist()]


def test_fewer_bytes_need_more_rows_scored_exactly() -> None:
    config = IndexConfig(kind="ivfpq", lists=4, probes=4, tuning_queries=50, device="cpu")
    coarse, fine = (
        VectorIndex.build(ITEMS[:3_000], config.model_copy(update={"pq_bytes": size}), QUERIES)[1] for size in (1, 8)
    )
    assert coarse.candidates > fine.candidates
    assert coarse.memory_bytes_per_item < fine.memory_bytes_per_item
    assert (coarse.pq_bytes, fine.pq_bytes) == (1, 8)


def test_bytes_are_those_of_the_files(index: VectorIndex, tmp_path: Path) -> None:
    index.save(tmp_path)
    report = index.report
    size = (tmp_path / FILES[report.kind]).stat().st_size
    assert report.memory_bytes_per_item == pytest.approx(size / COUNT, abs=0.1)
    assert report.bytes_per_item == pytest.approx(4 * DIM + size / COUNT, abs=0.2)


def test_tables_that_are_made_at_opening_count_as_memory(built: dict[tuple[Kind, Metric], VectorIndex]) -> None:
    by_product, by_distance = (built["ivfpq", metric].report for metric in ("dot", "l2"))
    table = LISTS * by_distance.pq_bytes * 256 * 4
    difference = by_distance.memory_bytes_per_item - by_product.memory_bytes_per_item
    assert difference == pytest.approx(table / COUNT, abs=0.5)


def test_opened_it_is_mapped_and_answers_the_same(
    built: dict[tuple[Kind, Metric], VectorIndex], tmp_path: Path
) -> None:
    for (kind, metric), index in built.items():
        folder = tmp_path / f"{kind}-{metric}"
        index.save(folder)
        opened = VectorIndex.open(folder, "cpu")
        assert opened.report == index.report
        assert isinstance(opened.vectors().base, np.memmap)
        maps = Path("/proc/self/maps").read_text()
        assert str(folder / FILES[kind]) in maps
        for before, after in zip(index.search(QUERIES, 50), opened.search(QUERIES, 50), strict=True):
            assert before.tolist() == after.tolist()


def test_a_missing_or_cut_file_is_named(index: VectorIndex, tmp_path: Path) -> None:
    index.save(tmp_path)
    path = tmp_path / FILES[index.report.kind]
    content = path.read_bytes()
    for kept in (len(content) - 10, len(content) // 2, 0):
        path.write_bytes(content[:kept])
        with pytest.raises(BundleError, match=path.name):
            VectorIndex.open(tmp_path, "cpu")
    path.unlink()
    with pytest.raises(BundleError, match=path.name):
        VectorIndex.open(tmp_path, "cpu")


def test_garbage_of_the_right_size_is_refused(index: VectorIndex, tmp_path: Path) -> None:
    index.save(tmp_path)
    path = tmp_path / FILES[index.report.kind]
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(BundleError, match=path.name):
        VectorIndex.open(tmp_path, "cpu")


def test_a_file_of_another_index_is_refused(index: VectorIndex, tmp_path: Path) -> None:
    index.save(tmp_path)
    description = json.loads((tmp_path / "index.json").read_text())
    for key in {"ivf": ["lists"], "ivfpq": ["lists", "pq_bytes"], "hnsw": ["links"]}[index.report.kind]:
        (tmp_path / "index.json").write_text(json.dumps({**description, key: 3}))
        with pytest.raises(BundleError, match=FILES[index.report.kind]):
            VectorIndex.open(tmp_path, "cpu")


def test_another_effort_finds_more_or_less(index: VectorIndex) -> None:
    best = exact().search(QUERIES, 100)[1]
    candidates = index.report.candidates
    effort = index.report.ef_search or index.report.probes
    found = [recall_at(index.reading(e, candidates).search(QUERIES, 100)[1], best) for e in (1, effort, 10**9)]
    assert found[0] <= found[1] <= found[2]
    assert index.reading(effort, candidates).report == index.report


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_any_length_are_found(kind: Kind, scale: float) -> None:
    rng = np.random.default_rng(0)
    vectors = (scale * rng.standard_normal((1_000, 8))).astype(np.float32)
    config = IndexConfig(kind=kind, lists=8, probes=8, ef_search=500, tuning_queries=50, device="cpu")
    for metric in ("dot", "l2"):
        report = VectorIndex.build(vectors, config.model_copy(update={"metric": metric}))[1]
        assert report.recall_at_100 >= 0.99


@pytest.mark.parametrize("kind", ["flat", *KINDS])
def test_by_distance_the_origin_may_lie_anywhere(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((1_000, 8)) + 10_000).astype(np.float32)
    config = IndexConfig(kind=kind, metric="l2", lists=8, probes=8, ef_search=500, tuning_queries=50, device="cpu")
    index, report = VectorIndex.build(vectors, config)
    assert report.recall_at_100 >= 0.99
    apart = np.square(vectors[:20, None].astype(np.float64) - vectors[None]).sum(axis=2)
    rows, scores = index.search(vectors[:20], 10)
    assert (scores[:, 0] == 0).all()
    if kind == "flat":
        np.testing.assert_allclose(-scores, np.sort(apart, axis=1)[:, :10], rtol=1e-4, atol=1e-5)
    assert len(np.unique(rows[0])) == 10


def test_vectors_beyond_what_a_distance_can_hold_are_refused_and_those_at_its_edge_are_not() -> None:
    edge = np.zeros((4, 2), np.float32)
    edge[:, 0] = [float(LONGEST), -float(LONGEST), 1, 0]
    index = VectorIndex.build(edge, IndexConfig(metric="l2", device="cpu"))[0]
    rows, scores = index.search(edge[:1], 4)
    assert set(rows[0].tolist()) == {0, 1, 2, 3}
    assert (rows[0, 0], rows[0, 3]) == (0, 1)
    assert np.isfinite(scores).all()


def test_a_graph_finds_large_products_that_inner_product_links_miss() -> None:
    items, queries = world(0.2)
    exactly = ExactSearch(items)
    ours = Graph.build(exactly, IndexConfig(kind="hnsw", links=8))
    theirs = faiss.IndexHNSWFlat(DIM, 8, faiss.METRIC_INNER_PRODUCT)
    theirs.hnsw.efConstruction = 100
    theirs.add(items)
    theirs.hnsw.efSearch = ours.effort = 100
    truth = np.argsort(-(queries @ items.T), axis=1)[:, :50]
    found = ours.propose(queries, 50, None, None)
    other = theirs.search(queries, with_margin(50))[1]
    recall = [np.mean([len(np.intersect1d(truth[b], rows[b])) / 50 for b in range(300)]) for rows in (found, other)]
    assert recall[0] > 0.9
    assert recall[0] > recall[1] + 0.05


def test_a_graph_adds_a_coordinate_only_where_lengths_differ() -> None:
    unit = ITEMS[:500] / np.linalg.norm(ITEMS[:500], axis=1, keepdims=True)
    config = IndexConfig(kind="hnsw")
    assert Graph.build(ExactSearch(unit), config).faiss_index.d == DIM
    assert Graph.build(ExactSearch(ITEMS[:500]), config).faiss_index.d == DIM + 1
    assert Graph.build(ExactSearch(ITEMS[:500], "l2"), config).faiss_index.d == DIM


def test_settings_out_of_bounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="pq_bytes = 17: the vectors have 16 columns"):
        VectorIndex.build(ITEMS[:300], IndexConfig(kind="ivfpq", pq_bytes=17, device="cpu"))
    for bad in ({"pq_bytes": 0}, {"links": 1}, {"ef_construction": 0}, {"candidates": 0.5}, {"metric": "l1"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            IndexConfig.model_validate(bad)


@pytest.mark.parametrize("kind", KINDS)
def test_below_the_target_the_warning_says_what_to_raise(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    vectors = np.random.default_rng(0).standard_normal((5_000, 16), dtype=np.float32)
    poor = {"probes": 1, "ef_search": 1, "links": 2, "pq_bytes": 1, "lists": 64, "tuning_queries": 50}
    config = IndexConfig.model_validate({"kind": kind, "device": "cpu", **poor})
    with caplog.at_level(logging.WARNING):
        report = VectorIndex.build(vectors, config)[1]
    assert report.warning in caplog.messages
    assert {"ivf": "raise probe_limit", "ivfpq": "raise pq_bytes or", "hnsw": "raise links or"}[kind] in caplog.text


def test_engines_of_approximate_search_are_engines(built: dict[tuple[Kind, Metric], VectorIndex]) -> None:
    assert {type(index._engine) for index in built.values()} == {InvertedFile, Graph}
    assert all(isinstance(index._engine, ApproximateSearch) for index in built.values())
