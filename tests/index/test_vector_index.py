"""What building an index promises: kind by size, recall measured on real queries, files that say what they are."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import faiss
import numpy as np
import pytest

from recsys.errors import BundleError, MissingPartError, PreconditionError
from recsys.index import inverted_file, vector_index
from recsys.index.config import IndexConfig
from recsys.index.inverted_file import InvertedFile, lists_for
from recsys.index.recall import recall_at
from recsys.index.vector_index import VectorIndex
from recsys.types import Floats, RaggedRows, RowMask

LOOSE = IndexConfig(kind="ivf", device="cpu", lists=64)


@pytest.fixture(scope="module")
def scattered() -> Floats:
    """Vectors without any cluster: the hardest case for an inverted file."""
    return np.random.default_rng(0).standard_normal((20_000, 16), dtype=np.float32)


@pytest.fixture(scope="module")
def clustered() -> Floats:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((100, 16))
    return (centres[rng.integers(0, 100, 20_000)] + 0.1 * rng.standard_normal((20_000, 16))).astype(np.float32)


@pytest.fixture(scope="module")
def inverted(clustered: Floats) -> VectorIndex:
    return VectorIndex.build(clustered, LOOSE)[0]


def test_a_group_of_queries_is_answered_by_the_greatest_score_that_one_of_them_gives(
    inverted: VectorIndex, clustered: Floats
) -> None:
    queries, groups = clustered[[5, 6, 7, 8, 9, 10]], np.array([0, 3, 4, 6])
    hidden = RaggedRows.of([[5, 6], [8], []])
    rows, scores = inverted.search_groups(queries, groups, 50, None, hidden)
    for g, (start, stop) in enumerate([(0, 3), (3, 4), (4, 6)]):
        greatest = np.stack([inverted.scores(rows[g], query) for query in queries[start:stop]]).max(axis=0)
        assert scores[g].tolist() == greatest.tolist()
        by_any = (clustered @ queries[start:stop].T).max(axis=1)
        by_any[hidden[g]] = -np.inf
        assert len(np.intersect1d(rows[g], np.argsort(-by_any)[:50])) >= 45
        assert not np.isin(rows[g], hidden[g]).any()


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("hidden", [0, 30, 400, 1_500])
def test_groups_of_queries_find_what_exact_search_finds_however_much_is_excluded(
    monkeypatch: pytest.MonkeyPatch, clustered: Floats, hidden: int, filtered: bool
) -> None:
    """The rows hidden are those that the queries would find first."""
    monkeypatch.setattr(inverted_file, "FEW_ALLOWED", 100)
    exact = VectorIndex.build(clustered, IndexConfig(kind="flat", device="cpu"))[0]
    lists = VectorIndex.build(clustered, LOOSE.model_copy(update={"probes": 64}))[0]
    queries, groups = clustered[[5, 6, 7, 8, 9]], np.array([0, 3, 5])
    near = exact.search_groups(queries, groups, max(hidden, 1))[0]
    excluded = RaggedRows.of([rows[:hidden] for rows in near])
    allowed = RowMask(np.arange(len(clustered)) % 3 > 0) if filtered else None
    expected = exact.search_groups(queries, groups, 100, allowed, excluded)
    found = lists.search_groups(queries, groups, 100, allowed, excluded)
    assert found[0].tolist() == expected[0].tolist()
    assert found[1].tolist() == expected[1].tolist()


def test_auto_is_flat_for_small_catalogues_and_inverted_beyond(
    monkeypatch: pytest.MonkeyPatch, clustered: Floats
) -> None:
    monkeypatch.setattr(vector_index, "FLAT_UP_TO", 1000)
    config = IndexConfig(device="cpu", probe_limit=1.0)
    assert VectorIndex.build(clustered[:1000], config)[1].kind == "flat"
    assert VectorIndex.build(clustered[:1001], config)[1].kind == "ivf"


def test_auto_is_flat_after_all_where_lists_miss_the_target(
    monkeypatch: pytest.MonkeyPatch, scattered: Floats, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vector_index, "FLAT_UP_TO", 1000)
    config = IndexConfig(device="cpu", probe_limit=0.05, tuning_queries=50, strict=True)
    with caplog.at_level(logging.WARNING):
        report = VectorIndex.build(scattered[:3000], config, scattered[3000:3100])[1]
    assert (report.kind, report.recall_at_100, report.query_source, report.warning) == ("flat", 1.0, "users", None)
    assert not caplog.messages
    monkeypatch.setattr(vector_index, "FLAT_AFTER_ALL_UP_TO", 2000)
    with pytest.raises(PreconditionError, match="below the target"):
        VectorIndex.build(scattered[:3000], config)


def test_lists_grow_with_the_square_root_of_the_catalogue() -> None:
    assert [lists_for(n) for n in (1_000_000, 100_000, 2_000, 20, 0)] == [4096, 1024, 51, 1, 1]


def test_the_probes_are_tuned_until_the_target_is_met(scattered: Floats, clustered: Floats) -> None:
    everything = {"probe_limit": 1.0}
    hard = VectorIndex.build(scattered, LOOSE.model_copy(update=everything))[1]
    easy = VectorIndex.build(clustered, LOOSE.model_copy(update=everything))[1]
    assert easy.probes < hard.probes
    for report in (hard, easy):
        assert report.recall_at_100 >= 0.99
        assert report.warning is None


def test_recall_is_measured_on_the_given_queries(clustered: Floats) -> None:
    queries = np.random.default_rng(2).standard_normal((40, 16), dtype=np.float32)
    report = VectorIndex.build(clustered, LOOSE, queries)[1]
    assert (report.query_source, report.queries) == ("users", 40)
    report = VectorIndex.build(clustered, LOOSE)[1]
    assert (report.query_source, report.queries) == ("items", 500)


def test_below_the_target_it_warns_and_strictly_it_refuses(scattered: Floats, caplog: pytest.LogCaptureFixture) -> None:
    tight = {"probe_limit": 0.05}
    with caplog.at_level(logging.WARNING):
        report = VectorIndex.build(scattered, LOOSE.model_copy(update=tight))[1]
    assert report.recall_at_100 < 0.99
    assert report.warning is not None
    assert report.warning in caplog.text
    with pytest.raises(PreconditionError, match=r"below the target of 0\.99"):
        VectorIndex.build(scattered, LOOSE.model_copy(update={**tight, "strict": True}))


def test_reported_recall_is_what_a_search_finds(scattered: Floats) -> None:
    index, report = VectorIndex.build(scattered, LOOSE.model_copy(update={"probes": 4, "tuning_queries": 2_000}))
    flat = VectorIndex.build(scattered, IndexConfig(kind="flat", device="cpu"))[0]
    sample = scattered[:500]
    found, exact = index.search(sample, 100)[0], flat.search(sample, 100)[0]
    share = np.mean([len(np.intersect1d(found[b], exact[b])) / 100 for b in range(500)])
    assert report.probes == 4
    assert share == pytest.approx(report.recall_at_100, abs=0.03)


def test_exclusions_cost_an_inverted_file_no_answer(inverted: VectorIndex, clustered: Floats) -> None:
    for hidden in (50, 500, 5_000):
        best = np.argsort(-(clustered @ clustered[0]), kind="stable")[:hidden].astype(np.int32)
        rows, _ = inverted.search(clustered[:1], 100, None, RaggedRows.of([best]))
        assert (rows >= 0).all()
        assert not set(rows[0].tolist()) & set(best.tolist())


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.9])
def test_a_filter_costs_an_inverted_file_no_answer(
    inverted: VectorIndex, clustered: Floats, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.index.inverted_file.FEW_ALLOWED", 1000)
    allowed = np.random.default_rng(3).random(20_000) < share
    allowed[:2] = True
    excluded = RaggedRows.of([[0], [1]])
    rows, _ = inverted.search(clustered[:2], 100, RowMask(allowed), excluded)
    for b in range(2):
        found = rows[b][rows[b] >= 0]
        assert len(found) == min(100, allowed.sum() - 1)
        assert allowed[found].all()
        assert b not in found


def test_under_a_filter_an_inverted_file_still_finds_the_best(
    inverted: VectorIndex, clustered: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.index.inverted_file.FEW_ALLOWED", 1000)
    allowed = RowMask(np.random.default_rng(4).random(20_000) < 0.1)
    flat = VectorIndex.build(clustered, IndexConfig(kind="flat", device="cpu"))[0]
    found, exact = inverted.search(clustered[:200], 50, allowed)[0], flat.search(clustered[:200], 50, allowed)[0]
    assert np.mean([len(np.intersect1d(found[b], exact[b])) / 50 for b in range(200)]) >= 0.98


def test_the_target_holds_for_a_thousand_rows_as_for_a_hundred(clustered: Floats) -> None:
    index = VectorIndex.build(clustered, LOOSE.model_copy(update={"probe_limit": 1.0}))[0]
    flat = VectorIndex.build(clustered, IndexConfig(kind="flat", device="cpu"))[0]
    for k in (100, 300, 1_000):
        assert recall_at(index.search(clustered[:200], k)[1], flat.search(clustered[:200], k)[1]) >= 0.98


def test_opened_vectors_and_lists_are_mapped_not_read(inverted: VectorIndex, tmp_path: Path) -> None:
    inverted.save(tmp_path)
    opened = VectorIndex.open(tmp_path, "cpu")
    assert isinstance(opened.vectors().base, np.memmap)
    engine = opened._engine
    assert isinstance(engine, InvertedFile)
    assert isinstance(faiss.downcast_InvertedLists(engine.faiss_index.invlists), faiss.OnDiskInvertedLists)


def test_saving_over_an_opened_index_leaves_the_opened_one_whole(
    inverted: VectorIndex, clustered: Floats, tmp_path: Path
) -> None:
    inverted.save(tmp_path)
    opened = VectorIndex.open(tmp_path, "cpu")
    VectorIndex.build(clustered[::-1], LOOSE)[0].save(tmp_path)
    assert opened.search(clustered[:5], 10)[0].tolist() == inverted.search(clustered[:5], 10)[0].tolist()


@pytest.mark.parametrize("name", ["index.json", "vectors.npy", "lists.faiss"])
def test_a_missing_or_truncated_file_is_named(inverted: VectorIndex, tmp_path: Path, name: str) -> None:
    inverted.save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    for kept in (len(content) - 10, len(content) // 2, 0):
        path.write_bytes(content[:kept])
        with pytest.raises(BundleError, match=name):
            VectorIndex.open(tmp_path, "cpu")
    path.unlink()
    with pytest.raises(BundleError, match=name):
        VectorIndex.open(tmp_path, "cpu")


def test_files_of_another_shape_than_the_description_are_refused(inverted: VectorIndex, tmp_path: Path) -> None:
    inverted.save(tmp_path)
    description = json.loads((tmp_path / "index.json").read_text())
    for key, value, name in (("count", 19_999, "vectors.npy"), ("dim", 8, "vectors.npy"), ("lists", 3, "lists.faiss")):
        (tmp_path / "index.json").write_text(json.dumps({**description, key: value}))
        with pytest.raises(BundleError, match=name):
            VectorIndex.open(tmp_path, "cpu")
    (tmp_path / "index.json").write_text(json.dumps({**description, "colour": "red"}))
    with pytest.raises(BundleError, match="colour"):
        VectorIndex.open(tmp_path, "cpu")


def test_cuda_without_a_gpu_says_how_to_get_one(clustered: Floats, tmp_path: Path) -> None:
    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(MissingPartError, match="--device cpu"):
        VectorIndex.build(clustered, IndexConfig(device="cuda"))
    VectorIndex.build(clustered, IndexConfig(device="auto"))[0].save(tmp_path)
    with pytest.raises(MissingPartError, match="--device cpu"):
        VectorIndex.open(tmp_path, "cuda")
