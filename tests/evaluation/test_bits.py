"""Bits per byte and its bootstrap interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from groundup.evaluation.bits import Tally, bits_per_byte, interval, per_source


def test_guessing_among_all_bytes_costs_eight_bits_each() -> None:
    assert bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8.0)
    assert math.isnan(bits_per_byte(1.0, 0))


def test_all_is_the_text_taken_together_and_not_the_mean_of_its_sources() -> None:
    tallies = {"long": Tally(math.log(2) * 3000, 1000, 250), "short": Tally(math.log(2) * 10, 10, 5)}
    figures = per_source(tallies)
    assert figures["long"] == pytest.approx(3.0) and figures["short"] == pytest.approx(1.0)
    assert figures["all"] == pytest.approx(3010 / 1010)
    assert sum(tallies.values(), Tally()) == Tally(math.log(2) * 3000 + math.log(2) * 10, 1010, 255)


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(60):
        sizes = rng.integers(200, 2000, 40)
        nats = sizes * math.log(2) * rng.normal(1.7, 0.2, 40)
        low, high = interval(nats, sizes, seed=seed, resamples=200)
        held += low <= 1.7 <= high
    assert 48 <= held <= 60


def test_an_interval_is_the_same_for_the_same_seed_and_a_point_for_equal_documents() -> None:
    rng = np.random.default_rng(0)
    nats, sizes = rng.uniform(1, 9, 50), rng.integers(1, 9, 50)
    assert interval(nats, sizes, seed=1) == interval(nats, sizes, seed=1) != interval(nats, sizes, seed=2)
    low, high = interval(np.full(5, 7.0), np.full(5, 10))
    assert low == pytest.approx(high) == pytest.approx(bits_per_byte(7.0, 10))


@pytest.mark.parametrize(("nats", "sizes"), [([], []), ([1.0], [1, 2]), ([[1.0]], [[1]])])
def test_documents_and_their_sizes_must_belong_together(nats: list, sizes: list) -> None:
    with pytest.raises(ValueError, match="one entry per document"):
        interval(np.array(nats), np.array(sizes))
