"""A keyed shuffle computed without a table: any element of it costs the same, and it knows nothing of what it shuffles.

A Feistel network (Luby & Rackoff 1988) over pairs of numbers whose pairs are hardly more than there are elements,
walked along its cycle until it lands among them (Black & Rogaway 2002, "Ciphers with arbitrary finite domains"), is a
bijection on [0, size) for every key.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from groundup.core.keyed import derive

Integers = NDArray[np.int64]

_ROUNDS = 6
_HALF = np.uint64(32)
_MASK = (1 << 64) - 1
_LARGEST = 1 << 62
GROUP = 8
"""How many pieces `grouped` shuffles together."""


def permutation(index: Integers, size: int, key: int) -> Integers:
    """Where the shuffle of `size` elements named by `key` puts each index.

    Args:
        index: any shape, values in [0, size).
        size: at most 2**62.
        key: 64 bits; another key gives an unrelated order.

    Returns:
        The same shape; over all indices each value in [0, size) exactly once.

    Raises:
        ValueError: a size or an index out of range.
    """
    if not 1 <= size <= _LARGEST:
        raise ValueError(f"cannot shuffle {size} elements")
    given = np.asarray(index, dtype=np.int64)
    if given.size and (given.min() < 0 or given.max() >= size):
        raise ValueError(f"an index lies outside [0, {size})")
    keys = _round_keys(key)
    wide = math.isqrt(size - 1) + 1
    sides = np.uint64(-(-size // wide)), np.uint64(wide)
    limit = np.uint64(size)
    flat = _feistel(given.ravel().astype(np.uint64), sides, keys)
    outside = np.flatnonzero(flat >= limit)
    while outside.size:
        walked = _feistel(flat[outside], sides, keys)
        flat[outside] = walked
        outside = outside[walked >= limit]
    return flat.astype(np.int64).reshape(given.shape)


def grouped(index: Integers, size: int, piece: int, key: int) -> Integers:
    """A shuffle that stays near: runs of `piece` neighbours are shuffled, and the elements of each 8 of them together.

    So at any time only 8 stretches of what is shuffled are in use. What does not fill a run comes last.

    Args:
        index: (n,), values in [0, size).
        size: as for `permutation`.
        piece: at least 1.
        key: 64 bits.

    Returns:
        (n,); over all indices each value in [0, size) exactly once.

    Raises:
        ValueError: a size, piece or index out of range.
    """
    if piece < 1:
        raise ValueError(f"a piece cannot hold {piece} elements")
    given = np.asarray(index, dtype=np.int64)
    if given.size and (given.min() < 0 or given.max() >= size):
        raise ValueError(f"an index lies outside [0, {size})")
    pieces = size // piece
    made = np.empty_like(given)
    groups = np.minimum(given, pieces * piece) // (GROUP * piece)
    groups[given >= pieces * piece] = -1
    for group in np.unique(groups).tolist():
        rows = np.flatnonzero(groups == group)
        first = group * GROUP if group >= 0 else pieces
        held = min(GROUP, pieces - first) * piece if group >= 0 else size - pieces * piece
        place = permutation(given[rows] - first * piece, held, derive(key, "group", group))
        slot, within = np.divmod(place, piece)
        there = permutation(first + slot, pieces, derive(key, "pieces")) if group >= 0 else first + slot
        made[rows] = there * piece + within
    return made


def _feistel(
    value: NDArray[np.uint64], sides: tuple[np.uint64, np.uint64], keys: list[np.uint64]
) -> NDArray[np.uint64]:
    """A bijection on [0, high side * low side): each half in turn is moved around by a hash of the other."""
    halves = list(np.divmod(value, sides[1]))
    for number, key in enumerate(keys):
        moved, still, side = halves[number % 2], halves[1 - number % 2], sides[number % 2]
        moved += _hash(still, key, side)
        # Without a sign, what is below the side wraps around to more than it was.
        np.minimum(moved, moved - side, out=moved)
    joined: NDArray[np.uint64] = halves[0] * sides[1] + halves[1]
    return joined


def _hash(value: NDArray[np.uint64], key: np.uint64, below: np.uint64) -> NDArray[np.uint64]:
    """Numbers in [0, below), below 2**32: two multiplications mix all bits upwards, a third scales the upper half."""
    mixed = (value + key) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> _HALF
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed >>= _HALF
    mixed *= below
    mixed >>= _HALF
    return mixed


def _round_keys(key: int) -> list[np.uint64]:
    state, keys = key & _MASK, []
    for _ in range(_ROUNDS):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        keys.append(np.uint64(mixed ^ (mixed >> 31)))
    return keys
