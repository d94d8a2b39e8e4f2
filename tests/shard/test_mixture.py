"""Laws of the mixture: counts in closed form, every prefix within one sample of its shares."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.core.errors import ConfigError
from groundup.shard import mixture as module
from groundup.shard.eras import Eras
from groundup.shard.mixture import Mixture
from groundup.shard.weights import FINEST, parse, taken_up

LENGTH = 700
simple = st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(any)
numbers = st.sampled_from([0, 1, 2, 0.25, 1.5, 7])


def mix(weights):
    """The mixture of some weights, and its first samples as cumulative counts (length, sources)."""
    names = {f"s{k}": 1 for k in range(len(weights))}
    made = Mixture(parse(dict(zip(names, weights, strict=True)), names))
    source, ordinal = made.locate(np.arange(LENGTH))
    return made, source, ordinal, np.cumsum(source[:, None] == np.arange(made.sources), axis=0)


def furthest(made, counts):
    """The largest distance of a prefix from the integral of its shares, which are straight between whole samples."""
    at, shares = zip(*made.knots, strict=True)
    whole = np.arange(LENGTH + 1)
    lines = np.array([np.interp(whole, at, [float(row[k]) for row in shares]) for k in range(made.sources)]).T
    due = np.cumsum((lines[1:] + lines[:-1]) / 2, axis=0)
    return np.abs(counts - due).max() - 1e-9


@settings(deadline=None, max_examples=60)
@given(simple)
def test_every_prefix_is_within_one_sample_of_constant_weights(weights):
    _, _, _, counts = mix(weights)
    shares = np.array(weights) / sum(weights)
    assert np.abs(counts - shares * np.arange(1, LENGTH + 1)[:, None]).max() < 1


@settings(deadline=None, max_examples=5)
@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=12))
def test_every_prefix_is_within_one_sample_of_shares_rounded_to_the_finest(weights):
    made, _, _, counts = mix(weights)
    shares = made.shares(0)
    assert all(abs(float(a) - b / sum(weights)) <= 1 / FINEST for a, b in zip(shares, weights, strict=True))
    assert furthest(made, counts) < 1


@st.composite
def moving(draw):
    """Weights of several sources that move in straight lines; at least one stays positive."""
    curves = draw(
        st.lists(
            numbers
            | st.lists(st.integers(0, LENGTH), min_size=1, max_size=4, unique=True).flatmap(
                lambda at: st.tuples(*(numbers for _ in at)).map(
                    lambda v: [list(p) for p in zip(sorted(at), v, strict=True)]
                )
            ),
            max_size=8,
        )
    )
    return [1, *curves]


@settings(deadline=None, max_examples=80)
@given(moving(), st.sampled_from([13, 100, 65_536]))
def test_every_prefix_is_within_one_sample_of_weights_that_move(weights, longest):
    before, module._LONGEST = module._LONGEST, longest
    try:
        made, source, ordinal, counts = mix(weights)
    finally:
        module._LONGEST = before
    assert furthest(made, counts) < 1
    assert ordinal.tolist() == [counts[n][k] - 1 for n, k in enumerate(source)]


@settings(deadline=None, max_examples=15)
@given(moving(), st.lists(st.integers(0, LENGTH), max_size=5))
def test_counts_are_those_of_the_samples_before(weights, places):
    made, _, _, counts = mix(weights)
    assert sum(made.counts(10**9)) == sum(made.expected(10**9)) == 10**9
    for n in places:
        assert made.counts(n).tolist() == (counts[n - 1].tolist() if n else [0] * made.sources)
        assert all(abs(e - int(c)) < 1 for e, c in zip(made.expected(n), made.counts(n), strict=True))


def drawn_at_zero(made, source):
    """Samples drawn from a source whose share is 0 throughout them."""
    return [n for n, k in enumerate(source.tolist()) if made.shares(n)[k] == made.shares(n + 1)[k] == 0]


@settings(deadline=None, max_examples=15)
@given(moving())
def test_a_source_is_never_drawn_while_its_weight_is_zero(weights):
    made, source, _, _ = mix(weights)
    assert drawn_at_zero(made, source) == []


def test_sources_that_end_with_part_of_a_sample_open_leave_it_to_the_others():
    moving = [
        [[0, 7], [7, 1], [8, 6], [12, 1], [16, 1], [20, 8], [24, 3]],
        [[0, 6], [7, 1], [8, 2], [12, 7], [16, 5], [20, 2], [24, 7]],
    ]
    made, source, _, counts = mix(
        [*moving, [[0, 3], [7, 4], [8, 0]], [[0, 5], [7, 5], [8, 0]], [[0, 4], [7, 2], [8, 0]]]
    )
    assert drawn_at_zero(made, source) == []
    assert 1 < furthest(made, counts) < 2, "the one case beyond a sample, and it is known"


@settings(deadline=None, max_examples=30)
@given(simple, st.lists(st.integers(0, 10**12), min_size=1, max_size=10))
def test_any_sample_can_be_located_on_its_own_and_ordinals_continue_the_counts(weights, index):
    made, *_ = mix(weights)
    source, ordinal = made.locate(np.array(index))
    for place, k, number in zip(index, source.tolist(), ordinal.tolist(), strict=True):
        before, after = made.counts(place), made.counts(place + 1)
        assert number == before[k]
        assert (after - before).tolist() == [int(j == k) for j in range(made.sources)]


def test_without_weights_every_window_of_every_source_is_drawn_once_before_any_twice():
    sizes = {"large": 700, "middle": 53, "small": 5}
    made = Mixture(parse({}, sizes))
    assert made.counts(sum(sizes.values())).tolist() == list(sizes.values())
    assert made.counts(3 * sum(sizes.values())).tolist() == [3 * size for size in sizes.values()]


def test_a_tiny_source_is_kept_when_no_weights_are_given():
    made = Mixture(parse({}, {"huge": 10**12, "tiny": 1}))
    assert made.shares(0) == [Fraction(FINEST - 1, FINEST), Fraction(1, FINEST)]


def test_a_ramp_of_a_billion_samples_needs_a_small_table():
    made = Mixture(parse({"a": [[0, 1], [10**9, 0]], "b": [[0, 0], [10**9, 1]]}, {"a": 1, "b": 1}))
    for n in (0, 1, 10**6 + 7, 10**9 - 3, 10**9, 10**10):
        assert all(abs(float(e - int(c))) < 1 for e, c in zip(made.expected(n), made.counts(n), strict=True))
    assert made._counts.shape[0] < 20_000


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"prse": 1, "code": 1}, r"weights\.prse: is no source of this data; did you mean prose\?"),
        ({"prose": 1}, r"weights: says nothing of source code; give weights\.code"),
        ({"prose": 0, "code": 0}, r"all weights are 0"),
        ({"prose": -1, "code": 1}, r"weights\.prose=-1: must be a number of at least 0"),
        ({"prose": math.nan, "code": 1}, r"weights\.prose=nan: must be a number"),
        ({"prose": True, "code": 1}, r"weights\.prose=True: must be a number"),
        ({"prose": "lots", "code": 1}, r"weights\.prose=lots: must be a number"),
        ({"prose": [], "code": 1}, r"weights\.prose=\[\]: is empty"),
        ({"prose": [1, 2], "code": 1}, r"is no list of pairs"),
        ({"prose": [[5, 1], [5, 2]], "code": 1}, r"samples must rise"),
        ({"prose": [[-1, 1]], "code": 1}, r"samples are whole numbers"),
        ({"prose": [[0, 1], [9, 0]], "code": [[0, 1], [9, 0]]}, r"weights at sample 9: all weights are 0"),
        ({"prose": 1e-9, "code": 1}, r"the share of prose is below 5e-06; raise it, or set it to 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused_by_name(weights, says):
    with pytest.raises(ConfigError, match=says):
        parse(weights, {"prose": 10, "code": 10})


def test_shares_must_be_shares():
    for knots in ([], [(0, [Fraction(1, 2)])], [(0, [Fraction(2), Fraction(-1)])]):
        with pytest.raises(ValueError, match="sum to 1"):
            Mixture(knots)


SOURCES = ["s0", "s1", "s2"]


@st.composite
def eras(draw):
    """Mixtures that take over from each other at some samples, at once or over some."""
    sizes, found = dict.fromkeys(SOURCES, 1), []
    for first in [0, *sorted(draw(st.sets(st.integers(1, LENGTH - 1), max_size=3)))]:
        weights = dict(zip(SOURCES, draw(st.lists(st.integers(1, 9), min_size=3, max_size=3)), strict=True))
        knots = parse(weights, sizes)
        if found:
            before = found[-1][1].shares(first - found[-1][0])
            knots = taken_up(knots, first, before, draw(st.sampled_from([0, 50, 200])), SOURCES)
        found.append((first, Mixture(knots)))
    return found


@settings(deadline=None, max_examples=30)
@given(eras())
def test_sources_go_on_where_they_stood_when_another_mixture_takes_over(found):
    made = Eras(found)
    source, ordinal = made.locate(np.arange(LENGTH))
    for number in range(made.sources):
        assert ordinal[source == number].tolist() == list(range((source == number).sum()))
    assert made.counts(LENGTH).tolist() == [(source == number).sum() for number in range(made.sources)]
    until = found[1][0] if len(found) > 1 else LENGTH
    alone = found[0][1].locate(np.arange(until))
    assert source[:until].tolist() == alone[0].tolist()
    assert ordinal[:until].tolist() == alone[1].tolist()


def test_a_mixture_that_is_eased_in_moves_in_a_straight_line_from_what_was():
    knots = taken_up(parse({"a": 1, "b": 3}, {"a": 1, "b": 1}), 40, [Fraction(3, 4), Fraction(1, 4)], 100, ["a", "b"])
    made = Mixture(knots)
    assert [float(made.shares(index)[0]) for index in (0, 50, 100, 999)] == [0.75, 0.5, 0.25, 0.25]
    moving = taken_up([(0, [Fraction(0), Fraction(1)]), (100, [Fraction(1), Fraction(0)])], 40, [], 0, ["a", "b"])
    assert [(sample, float(shares[0])) for sample, shares in moving] == [(0, 0.4), (60, 1.0)]
