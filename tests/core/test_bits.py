"""Laws of bits per byte."""

from __future__ import annotations

import math

import pytest

from groundup.core.bits import Tally, bits_per_byte, per_source


def test_guessing_among_all_bytes_costs_eight_bits_each() -> None:
    assert bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8.0)
    assert math.isnan(bits_per_byte(1.0, 0))


def test_all_is_the_text_taken_together_and_not_the_mean_of_its_sources() -> None:
    tallies = {"long": Tally(math.log(2) * 3000, 1000, 250), "short": Tally(math.log(2) * 10, 10, 5)}
    figures = per_source(tallies)
    assert figures["long"] == pytest.approx(3.0) and figures["short"] == pytest.approx(1.0)
    assert figures["all"] == pytest.approx(3010 / 1010)
    assert sum(tallies.values(), Tally()) == Tally(math.log(2) * 3000 + math.log(2) * 10, 1010, 255)
