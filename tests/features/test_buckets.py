import numpy as np
import pytest

from recsys.features.buckets import bucket_codes, cardinality_of_edges, quantile_edges


def test_a_value_on_an_edge_belongs_to_the_bucket_below() -> None:
    values = np.array([0.5, 1.0, 1.5, 2.0, 2.5])
    np.testing.assert_array_equal(bucket_codes(values, (1.0, 2.0)), np.array([2, 2, 3, 3, 4], np.int32), strict=True)
    assert cardinality_of_edges((1.0, 2.0)) == 5


def test_nan_is_missing_and_infinities_are_the_outermost_buckets() -> None:
    assert bucket_codes(np.array([np.nan, -np.inf, np.inf]), (1.0, 2.0)).tolist() == [0, 2, 4]


def test_without_edges_every_number_is_alike() -> None:
    assert bucket_codes(np.array([np.nan, -1.0, np.inf]), ()).tolist() == [0, 2, 2]


@pytest.mark.parametrize("buckets", [2, 3, 4, 10])
def test_quantile_edges_part_the_data_evenly(buckets: int) -> None:
    values = np.random.default_rng(0).permutation(np.arange(1200.0))
    codes = bucket_codes(values, quantile_edges(values, buckets))
    assert np.bincount(codes)[2:].tolist() == [1200 // buckets] * buckets


def test_repeated_values_give_fewer_buckets_and_none_is_empty() -> None:
    values = np.array([0.0] * 90 + [1.0] * 5 + [7.0] * 5)
    edges = quantile_edges(values, 20)
    assert edges == (0.0, 1.0)
    assert set(bucket_codes(values, edges)) == {2, 3, 4}


def test_nothing_finite_and_constants_have_no_edges() -> None:
    assert quantile_edges(np.array([]), 4) == ()
    assert quantile_edges(np.array([np.nan, np.inf, -np.inf]), 4) == ()
    assert quantile_edges(np.array([3.0, 3.0]), 4) == ()
