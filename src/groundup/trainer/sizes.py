"""The best of some sizes, found by trying few of them; what is tried, and how, it does not know."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

MARGIN = 0.1
"""Share of the memory that stays free, for what trying does not see."""

ALIKE, WORSE = 0.97, 0.9
"""Of the best speed: the fewest sequences that reach so much are taken, and below so much no more are tried."""


class Tried(NamedTuple):
    """What a size took, on the rank where it took most.

    Attributes:
        rows: sequences at once.
        seconds: for each of them, forward and backward.
        share: of the memory that the process could have, at most; 0.0 where that is not known.
    """

    rows: int
    seconds: float
    share: float


Search = Generator[int, Tried | None, int | None]
"""Yields sizes to try and is sent what they took, None where memory ran out; returns the best, None if none fits."""


def most(sizes: Sequence[int]) -> Search:
    """The largest size that fits: doubled until one does not, then the middle of what is left.

    What is bound not to fit, as two smaller sizes show, is not tried.
    """
    fit: list[Tried] = []
    low, high = -1, len(sizes)
    while low + 1 < high:
        middle = (low + high) // 2 if high < len(sizes) else _doubled(sizes, low)
        if _expected(fit, sizes[middle]) > 1 - MARGIN:
            high = middle
            continue
        tried = yield sizes[middle]
        if tried is None or tried.share > 1 - MARGIN:
            high = middle
        else:
            low = middle
            fit.append(tried)
    return sizes[low] if low >= 0 else None


def fastest(sizes: Sequence[int]) -> Search:
    """The smallest size that computes about as fast as any: doubled until speed falls or memory would end."""
    fit: list[Tried] = []
    place = -1
    while place + 1 < len(sizes):
        place = _doubled(sizes, place)
        if _expected(fit, sizes[place]) > 1 - MARGIN:
            break
        tried = yield sizes[place]
        if tried is None:
            break
        fit.append(tried)
        if min(one.seconds for one in fit) < WORSE * tried.seconds:
            break
    best = min((one.seconds for one in fit), default=0.0)
    return next((one.rows for one in fit if best >= ALIKE * one.seconds), None)


def _doubled(sizes: Sequence[int], place: int) -> int:
    if place < 0:
        return 0
    return next((i for i, size in enumerate(sizes) if size >= 2 * sizes[place]), len(sizes) - 1)


def _expected(fit: Sequence[Tried], rows: int) -> float:
    """The share of memory a size will take: memory grows with it along a line, or less."""
    if len(fit) < 2:
        return 0.0
    one, other = fit[-2:]
    return other.share + (other.share - one.share) / (other.rows - one.rows) * (rows - other.rows)
