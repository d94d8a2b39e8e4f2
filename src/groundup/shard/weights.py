"""How much of each source the mixture should hold, as numbers that move in straight lines; it draws nothing itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from groundup.core.errors import ConfigError, nearest

FINEST = 100_000
"""Shares with a common denominator up to this are kept as they are; others are rounded to multiples of its inverse."""

Curve = list[tuple[int, Fraction]]
Knots = list[tuple[int, list[Fraction]]]


def parse(weights: Mapping[str, Any], sizes: Mapping[str, int]) -> Knots:
    """The shares of the sources, in the order of `sizes`, at every sample where one of them bends.

    Args:
        weights: per source a number, or [sample, number] pairs between which it moves in a straight line, constant
            before the first and after the last. Empty: as much of each source as it is large.
        sizes: per source its number of windows.

    Returns:
        Pairs (sample, shares): shares are rounded as `FINEST` says and sum to 1; between two knots they move in a
        straight line, after the last they stay.

    Raises:
        ConfigError: a source that is unknown or left out, a number that is none, points out of order, no weight at
            all at some point, or a positive share too small to be kept.
    """
    if not weights:
        return [(0, share([Fraction(size) for size in sizes.values()], list(sizes), "weights", lift=True))]
    for name in weights:
        if name not in sizes:
            raise ConfigError(f"weights.{name}", "is no source of this data", nearest(name, sizes))
    for name in sizes:
        if name not in weights:
            raise ConfigError("weights", f"says nothing of source {name}", f"give weights.{name} (0 leaves it out)")
    curves = {name: _curve(name, weights[name]) for name in sizes}
    samples = sorted({sample for curve in curves.values() for sample, _ in curve})
    return [
        (sample, share([_at(curve, sample) for curve in curves.values()], list(sizes), f"weights at sample {sample}"))
        for sample in samples
    ]


def at(knots: Knots, sample: int) -> list[Fraction]:
    """The exact shares at a sample."""
    if sample <= knots[0][0]:
        return knots[0][1]
    for (first, low), (end, high) in pairwise(knots):
        if sample < end:
            way = Fraction(sample - first, end - first)
            return [a + (b - a) * way for a, b in zip(low, high, strict=True)]
    return knots[-1][1]


def taken_up(knots: Knots, first: int, before: Sequence[Fraction], over: int, names: Sequence[str]) -> Knots:
    """Shares that hold from a sample on, counted from there.

    Args:
        knots: as `parse` gives them, by samples from the start.
        first: the sample.
        before: the shares up to there.
        over: in so many samples the shares move in a straight line from those before to these; 0: at once.
        names: of the sources.
    """
    begin = share(before if over else at(knots, first), names, "weights", lift=True)
    there = [(over, share(at(knots, first + over), names, "weights", lift=True))] if over else []
    return [(0, begin), *there, *((sample - first, shares) for sample, shares in knots if sample > first + over)]


def share(numbers: Sequence[Fraction], names: Sequence[str], where: str, lift: bool = False) -> list[Fraction]:
    """Numbers as shares of their sum, in the nearest whole multiples of 1/FINEST unless they are simple fractions.

    Args:
        numbers: at least 0.
        names: what each is called, for errors.
        where: the config key concerned, for errors.
        lift: raise a positive share that would round to 0 to the smallest one instead of refusing it.

    Raises:
        ConfigError: their sum is 0, or a positive share rounds to 0.
    """
    total = sum(numbers, Fraction(0))
    if total == 0:
        raise ConfigError(where, "all weights are 0", "give at least one source a positive weight")
    shares = [number / total for number in numbers]
    period = math.lcm(*(part.denominator for part in shares))
    if period <= FINEST:
        return shares
    counts = [math.floor(part * FINEST) for part in shares]
    by_remainder = sorted(range(len(shares)), key=lambda k: (counts[k] - shares[k] * FINEST, k))
    for k in by_remainder[: FINEST - sum(counts)]:
        counts[k] += 1
    for k, part in enumerate(shares):
        if part > 0 and counts[k] == 0:
            if not lift:
                remedy = "raise it, or set it to 0 to leave the source out"
                raise ConfigError(where, f"the share of {names[k]} is below {0.5 / FINEST:g}", remedy)
            counts[counts.index(max(counts))] -= 1
            counts[k] = 1
    return [Fraction(count, FINEST) for count in counts]


def _curve(name: str, value: Any) -> Curve:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return [(0, _number(name, value))]
    curve: Curve = []
    for point in value:
        if not isinstance(point, Sequence) or isinstance(point, str) or len(point) != 2:
            raise ConfigError(f"weights.{name}={value}", "is no list of pairs", "write [[sample, number], ...]")
        sample, number = point
        if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
            raise ConfigError(f"weights.{name}={value}", "samples are whole numbers", "write [[sample, number], ...]")
        if curve and sample <= curve[-1][0]:
            raise ConfigError(f"weights.{name}={value}", "samples must rise", "sort the points and merge equal ones")
        curve.append((sample, _number(name, number)))
    if not curve:
        raise ConfigError(f"weights.{name}={value}", "is empty", "give a number or [[sample, number], ...]")
    return curve


def _number(name: str, value: Any) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"weights.{name}={value}", "must be a number of at least 0", "give a number, or 0 for none")
    return Fraction(repr(value))


def _at(curve: Curve, sample: int) -> Fraction:
    if sample <= curve[0][0]:
        return curve[0][1]
    for (before, low), (after, high) in pairwise(curve):
        if sample <= after:
            return low + (high - low) * Fraction(sample - before, after - before)
    return curve[-1][1]
