"""A keyed shuffle computed without a table: any element of it costs the same, and it knows nothing of what it shuffles.

A Feistel network over just enough bits (Luby & Rackoff 1988), walked along its cycle until it lands below the size
(Black & Rogaway 2002, "Ciphers with arbitrary finite domains"), is a bijection on [0, size) for every key.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from groundup.core.keyed import derive

Integers = NDArray[np.int64]

_ROUNDS = 6
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
    bits = max(2, (size - 1).bit_length())
    limit = np.uint64(size)
    flat = _feistel(given.ravel().astype(np.uint64), bits, keys)
    outside = np.flatnonzero(flat >= limit)
    while outside.size:
        walked = _feistel(flat[outside], bits, keys)
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


def _feistel(value: NDArray[np.uint64], bits: int, keys: list[np.uint64]) -> NDArray[np.uint64]:
    """A bijection on [0, 2**bits): the two halves, which may differ by one bit, are mixed into each other in turn."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    low, high = value & low_mask, value >> low_bits
    for number, key in enumerate(keys):
        if number % 2:
            low = low ^ (_scramble(high, key) & low_mask)
        else:
            high = high ^ (_scramble(low, key) & high_mask)
    return (high << low_bits) | low


def _scramble(value: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014), of which the low bits depend on every bit of the input."""
    mixed = (value + key) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(32)
    return mixed


def _round_keys(key: int) -> list[np.uint64]:
    state, keys = key & _MASK, []
    for _ in range(_ROUNDS):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        keys.append(np.uint64(mixed ^ (mixed >> 31)))
    return keys
