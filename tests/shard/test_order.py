"""Laws of the keyed shuffle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.shard.order import GROUP, grouped, permutation

sizes = st.integers(1, 5000)
keys = st.integers(0, 2**64 - 1)


@settings(deadline=None, max_examples=200)
@given(sizes, keys)
def test_the_shuffle_is_a_bijection(size, key):
    assert np.array_equal(np.sort(permutation(np.arange(size), size, key)), np.arange(size))


@pytest.mark.parametrize("size", range(1, 70))
def test_the_shuffle_is_a_bijection_for_every_small_size(size):
    assert sorted(permutation(np.arange(size), size, size * 7919).tolist()) == list(range(size))


@settings(deadline=None, max_examples=50)
@given(st.integers(20, 5000), keys, keys)
def test_another_key_gives_another_order(size, one, other):
    same = np.array_equal(permutation(np.arange(size), size, one), permutation(np.arange(size), size, other))
    assert same == (one == other)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 2**62), keys, st.data())
def test_any_part_can_be_computed_on_its_own(size, key, data):
    index = np.array(data.draw(st.lists(st.integers(0, size - 1), max_size=20)), dtype=np.int64)
    whole = permutation(index, size, key)
    assert whole.dtype == np.int64
    assert ((whole >= 0) & (whole < size)).all()
    assert whole.tolist() == [int(permutation(np.array(i), size, key)) for i in index]


def test_the_shuffle_looks_random():
    size, trials = 1000, 200
    landed = np.zeros((10, 10))
    steps = []
    for key in range(trials):
        order = permutation(np.arange(size), size, key)
        landed += np.histogram2d(np.arange(size), order, bins=10, range=[[0, size], [0, size]])[0]
        steps.append(np.abs(np.diff(order)).mean() / size)
    expected = size * trials / 100
    assert ((landed - expected) ** 2 / expected).sum() < 150, "more than chi-squared allows (81 degrees, p < 1e-5)"
    assert np.mean(steps) == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize(("index", "size"), [(5, 5), (-1, 5), (0, 0), (0, 2**62 + 1)])
def test_an_index_outside_is_refused(index, size):
    with pytest.raises(ValueError, match=r"outside|cannot shuffle"):
        permutation(np.array([index]), size, 0)


@settings(deadline=None, max_examples=100)
@given(sizes, st.integers(1, 600), keys)
def test_the_grouped_shuffle_is_a_bijection_that_uses_few_pieces_at_a_time(size, piece, key):
    order = grouped(np.arange(size), size, piece, key)
    assert np.array_equal(np.sort(order), np.arange(size))
    for first in range(0, size - size % piece, GROUP * piece):
        part = order[first : min(first + GROUP * piece, size - size % piece)]
        assert np.unique(part // piece).size <= GROUP


def test_the_grouped_shuffle_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="piece"):
        grouped(np.arange(3), 3, 0, 0)
    with pytest.raises(ValueError, match="outside"):
        grouped(np.arange(4), 3, 1, 0)
