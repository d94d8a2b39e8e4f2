"""Ranges of the order that are never served: integers alone, whatever was wrong with what stood there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import ConfigError

Integers = NDArray[np.int64]


class Skips:
    """Half-open ranges [first, end) of order indices to pass over.

    The stream serves samples 0, 1, 2, ...; sample number s stands at order index `index(s)`, the s-th that is not
    skipped. Ranges behind what was already served would move it; ranges ahead do not.

    Raises:
        ConfigError: a range that is no pair of whole numbers with 0 <= first < end.
    """

    def __init__(self, ranges: Iterable[Sequence[int]] = ()) -> None:
        self.ranges = _merge([_checked(item) for item in ranges])
        firsts = np.array([first for first, _ in self.ranges], dtype=np.int64)
        lengths = np.array([end - first for first, end in self.ranges], dtype=np.int64)
        self._passed = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        self._thresholds = firsts - self._passed[:-1]

    def index(self, samples: Integers) -> Integers:
        """The order index of each sample number."""
        if not self.ranges:
            return samples
        passed: Integers = self._passed[np.searchsorted(self._thresholds, samples, side="right")]
        return samples + passed

    def sample(self, index: int) -> int | None:
        """The number of the sample served from an order index; None where it is skipped."""
        passed = 0
        for first, end in self.ranges:
            if index < first:
                break
            if index < end:
                return None
            passed += end - first
        return index - passed


def _checked(item: Any) -> tuple[int, int]:
    pair = list(item) if isinstance(item, list | tuple) else []
    if len(pair) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in pair):
        raise ConfigError(f"skips={item}", "a skipped range is two whole numbers", "write [first, end], end excluded")
    first, end = pair
    if not 0 <= first < end:
        raise ConfigError(f"skips={item}", "a skipped range must hold something", "write [first, end], end excluded")
    return first, end


def _merge(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return merged
