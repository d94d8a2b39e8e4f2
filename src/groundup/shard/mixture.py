"""Which source each sample is drawn from, computed for any sample on its own; it knows shares and no data.

A stretch of samples with whole numbers of draws per source is laid out by earliest deadline within the windows of
proportionate fairness (Baruah, Cohen, Plaxton & Varvel 1996), which exist for any shares and keep every prefix within
one draw of them, as in the chairman assignment problem (Tijdeman 1980). Constant shares repeat one stretch for ever,
so counts are whole periods and a prefix of one. Before that, where shares move, stretches of at most 65,536 samples
are laid out one by one; the draws of each are chosen by the same rule, for which a small table is made once.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundup.shard.weights import Knots, at

Integers = NDArray[np.int64]

_LONGEST = 65_536


class Mixture:
    """A sequence of sources in which every prefix holds its shares to within one sample.

    |count - integral of the share| < 1 for each source and prefix, whether shares stay or move. (Only a share that
    falls to exactly 0 with a part of a draw left over can push another source beyond that, to 2 at most.) A source is
    never drawn while its share is 0.

    Args:
        knots: as `weights.parse` returns: rising (sample, shares) with equally many shares that sum to 1.
    """

    def __init__(self, knots: Knots) -> None:
        if not knots or any(sum(shares) != 1 or min(shares) < 0 for _, shares in knots):
            raise ValueError("shares must be at least 0 and sum to 1")
        first = knots[0]
        self.knots: Knots = [(0, first[1]), *knots] if first[0] > 0 else list(knots)
        self.sources = len(first[1])
        self._edges, self._unit, self._integrals = _integrals(self.knots)
        self._counts = _counts(self._edges, self._unit, self._integrals)
        last = self.knots[-1][1]
        period = math.lcm(*(part.denominator for part in last))
        self._tail = self._stretch(len(self._edges) - 1, tuple(int(part * period) for part in last))
        _layout(self._tail)

    def locate(self, index: Integers) -> tuple[Integers, Integers]:
        """For each index the number of its source, and how many samples that source gave before it.

        Args:
            index: (n,), at least 0.
        """
        index = np.asarray(index, dtype=np.int64)
        start, quotas = self._edges[-1], np.array(self._tail.quotas, dtype=np.int64)
        choice, ordinal = _layout(self._tail)
        period = choice.size
        if period == 1 and start == 0:
            return np.full(index.shape, choice[0]), index.copy()
        turn, place = np.divmod(index - start, period)
        source = choice[place]
        number = self._counts[-1][source] + turn * quotas[source] + ordinal[place]
        early = np.flatnonzero(index < start)
        if early.size:
            stairs = np.searchsorted(self._edges, index[early], side="right") - 1
            for stair in np.unique(stairs):
                rows = early[stairs == stair]
                choice, ordinal = _layout(self._stair(int(stair)))
                place = index[rows] - self._edges[stair]
                source[rows] = choice[place]
                number[rows] = self._counts[stair][choice[place]] + ordinal[place]
        return source, number

    def counts(self, index: int) -> Integers:
        """How many of the first `index` samples are drawn from each source: (sources,)."""
        start = self._edges[-1]
        if index < start:
            stair = bisect_right(self._edges, index) - 1
            choice, _ = _layout(self._stair(stair))
            part = choice[: index - self._edges[stair]]
            return np.asarray(self._counts[stair] + np.bincount(part, minlength=self.sources), dtype=np.int64)
        choice, _ = _layout(self._tail)
        turn, place = divmod(index - start, choice.size)
        whole = self._counts[-1] + turn * np.array(self._tail.quotas, dtype=np.int64)
        return np.asarray(whole + np.bincount(choice[:place], minlength=self.sources), dtype=np.int64)

    def shares(self, index: int) -> list[Fraction]:
        """The exact shares at an index."""
        return at(self.knots, index)

    def expected(self, index: int) -> list[Fraction]:
        """The exact integral of each source's share over the samples before an index."""
        total = [Fraction(0)] * self.sources
        for number, (first, low) in enumerate(self.knots):
            following = self.knots[number + 1] if number + 1 < len(self.knots) else None
            end = min(index, following[0]) if following else index
            if end <= first:
                break
            ahead = self.shares(end) if following is None or end < following[0] else following[1]
            total = [t + (a + b) / 2 * (end - first) for t, a, b in zip(total, low, ahead, strict=True)]
        return total

    def _stair(self, stair: int) -> _Stretch:
        return self._stretch(stair, tuple((self._counts[stair + 1] - self._counts[stair]).tolist()))

    def _stretch(self, edge: int, quotas: tuple[int, ...]) -> _Stretch:
        done = [count * self._unit for count in self._counts[edge].tolist()]
        return _Stretch(
            quotas=quotas,
            starts=tuple(integral.at_edge[edge] - d for integral, d in zip(self._integrals, done, strict=True)),
            linear=tuple(integral.linear[edge] for integral in self._integrals),
            square=tuple(integral.square[edge] for integral in self._integrals),
            unit=self._unit,
        )


class _Integral(NamedTuple):
    """How many draws a source is due up to any place, in units so small that every number here is whole.

    x places after the n-th edge it is at_edge[n] + linear[n] x + square[n] x^2, until the next edge if there is one.
    """

    at_edge: list[int]
    linear: list[int]
    square: list[int]

    def reaches(self, goal: int, edges: list[int]) -> float:
        """The first place by which it is at least `goal`; infinite if it never is."""
        edge = max(0, bisect_left(self.at_edge, goal) - 1)
        length = edges[edge + 1] - edges[edge] if edge + 1 < len(edges) else None
        if length is None and self.linear[edge] == 0:
            return math.inf if goal > self.at_edge[edge] else edges[edge]
        return edges[edge] + _reaches(goal - self.at_edge[edge], self.linear[edge], self.square[edge], length)


class _Stretch(NamedTuple):
    """Draws to lay out: how many of each source, and its integral of draws at each place of the stretch.

    After x places the integral is (start + linear x + square x^2) / unit, less the draws made before the stretch.
    """

    quotas: tuple[int, ...]
    starts: tuple[int, ...]
    linear: tuple[int, ...]
    square: tuple[int, ...]
    unit: int


@lru_cache(maxsize=16)
def _layout(stretch: _Stretch) -> tuple[Integers, Integers]:
    """The source of each place of a stretch, and its ordinal of that source.

    A draw may stand no earlier than its source's integral comes within one of it and no later than the integral
    reaches it; each place takes the released draw with the earliest deadline. Where the integrals are whole at both
    ends this meets every window, since the shares themselves are a fractional schedule that does.
    """
    length, sources = sum(stretch.quotas), len(stretch.quotas)
    if max(stretch.quotas) == length:
        return np.full(length, stretch.quotas.index(length), dtype=np.int64), np.arange(length, dtype=np.int64)
    draws: list[tuple[int, int]] = []
    for source, quota in enumerate(stretch.quotas):
        start, linear, square = stretch.starts[source], stretch.linear[source], stretch.square[source]
        for goal in range(-start, quota * stretch.unit - start, stretch.unit):
            release = _reaches(goal + 1, linear, square, length) - 1
            draws.append((release, _reaches(goal + stretch.unit, linear, square, length) * sources + source))
    draws.sort(key=itemgetter(0))
    ready: list[int] = []
    choice, ordinal, given, taken = [], [], [0] * sources, 0
    for place in range(length):
        while taken < length and (draws[taken][0] <= place or not ready):
            heapq.heappush(ready, draws[taken][1])
            taken += 1
        source = heapq.heappop(ready) % sources
        choice.append(source)
        ordinal.append(given[source])
        given[source] += 1
    return np.array(choice, dtype=np.int64), np.array(ordinal, dtype=np.int64)


def _reaches(goal: int, linear: int, square: int, length: int | None) -> int:
    """The least x >= 0 with linear x + square x^2 >= goal, on which this rises; length + 1 if there is none below."""
    if goal <= 0:
        return 0
    if length is not None and (linear + square * length) * length < goal:
        return length + 1
    if square == 0:
        return -(-goal // linear)
    root = math.isqrt(linear * linear + 4 * square * goal)
    x = max(0, (root - linear) // (2 * square))
    while (linear + square * x) * x < goal:
        x += 1
    while x > 0 and (linear + square * (x - 1)) * (x - 1) >= goal:
        x -= 1
    return x


def _integrals(knots: Knots) -> tuple[list[int], int, list[_Integral]]:
    """The edges of the stretches before the last knot, the units in a sample, and each source's integral."""
    spans = [(*a, *b) for a, b in pairwise(knots)]
    unit = math.lcm(*(part.denominator for part in knots[-1][1]))
    for first, low, end, high in spans:
        unit = math.lcm(unit, *(2 * (end - first) * part.denominator for part in (*low, *high)))
    edges, integrals = [0], [_Integral([0], [], []) for _ in knots[0][1]]
    for first, low, end, high in spans:
        length = end - first
        stretches = -(-length // _LONGEST)
        steps = [number * length // stretches for number in range(stretches + 1)]
        edges.extend(first + step for step in steps[1:])
        for integral, a, b in zip(integrals, low, high, strict=True):
            before, linear, square = integral.at_edge[-1], int(a * unit), int((b - a) * unit / (2 * length))
            integral.at_edge.extend(before + linear * step + square * step * step for step in steps[1:])
            integral.linear.extend(linear + 2 * square * step for step in steps[:-1])
            integral.square.extend([square] * stretches)
    for integral, part in zip(integrals, knots[-1][1], strict=True):
        integral.linear.append(int(part * unit))
        integral.square.append(0)
    return edges, unit, integrals


def _counts(edges: list[int], unit: int, integrals: list[_Integral]) -> Integers:
    """Each source's draws up to each edge: (edges, sources)."""
    counts = [[0] * len(integrals)]
    for edge in range(1, len(edges)):
        counts.append(_next_counts(counts[-1], edge, edges, unit, integrals))
    return np.array(counts, dtype=np.int64)


def _next_counts(done: list[int], edge: int, edges: list[int], unit: int, integrals: list[_Integral]) -> list[int]:
    """The draws up to an edge: what is overdue, and of what might stand on either side, a choice."""
    due = [integral.at_edge[edge] for integral in integrals]
    made = [max(before, goal // unit) for before, goal in zip(done, due, strict=True)]
    moving = [k for k, integral in enumerate(integrals) if integral.at_edge[edge] > integral.at_edge[edge - 1]]
    open_draws = [
        _Open(k, due[k] % unit, *(integrals[k].reaches(goal, edges) for goal in (floor + 1, floor + unit)))
        for k, floor in ((k, due[k] // unit * unit) for k in moving)
        if floor < due[k] and made[k] * unit == floor
    ]
    for k in _choose(open_draws, edges[edge] - sum(made), unit):
        made[k] += 1
    # Only where a source fell to a share of 0 with a fraction of a draw left over can the sum still be off by a few.
    while sum(made) < edges[edge]:
        made[max(moving, key=lambda k: due[k] - made[k] * unit)] += 1
    while sum(made) > edges[edge]:
        made[min((k for k in moving if made[k] > done[k]), key=lambda k: due[k] - made[k] * unit)] -= 1
    return made


class _Open(NamedTuple):
    """A draw that may fall on either side of an edge: its source, the part of it due by then, and its window."""

    source: int
    due: int
    release: float
    deadline: float


def _choose(draws: list[_Open], room: int, unit: int) -> list[int]:
    """The sources of `room` draws to make before an edge.

    By deadline, at least as many of each prefix as it is due in whole draws, so that what remains can be met; each
    time the one released first, so that what is chosen could be made. A choice that satisfies both orders exists, as
    the parts due do so as fractions and two chains of sets are totally unimodular; this exchange finds it.
    """
    chosen: list[int] = []
    waiting: list[tuple[float, int]] = []
    due = 0
    for draw in sorted(draws, key=lambda item: (item.deadline, item.source)):
        heapq.heappush(waiting, (draw.release, draw.source))
        due += draw.due
        while waiting and len(chosen) < min(room, due // unit):
            chosen.append(heapq.heappop(waiting)[1])
    while waiting and len(chosen) < room:
        chosen.append(heapq.heappop(waiting)[1])
    return chosen
