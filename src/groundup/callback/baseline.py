"""What is usual of a series of numbers, as robust as can be; plain arithmetic."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection


class Baseline:
    """What is usual: median and median absolute deviation of the newest values, robust up to half of them.

    Args:
        length: how many.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.values: deque[float] = deque()
        self._ordered: list[float] = []

    def add(self, value: float) -> None:
        """Take in a value, and forget the oldest if there are too many."""
        self.values.append(value)
        insort(self._ordered, value)
        if len(self.values) > self.length:
            del self._ordered[bisect_left(self._ordered, self.values.popleft())]

    def clear(self) -> None:
        """Forget all."""
        self.values.clear()
        self._ordered.clear()

    @property
    def median(self) -> float:
        """The middle value, the upper one of two."""
        return self._ordered[len(self._ordered) // 2]

    @property
    def sigma(self) -> float:
        """The standard deviation of a normal distribution with this median absolute deviation."""
        return 1.4826 * self._deviation()

    def _deviation(self) -> float:
        """The middle one of all distances from the median: those of values below and above it stand in order already.

        How many of the nearest are below is found by halving (as one merges two lists up to their middle).
        """
        ordered, place, middle = self._ordered, len(self._ordered) // 2, self.median
        wanted, above = place + 1, len(ordered) - place - 1  # so many distances, the median's own of zero among them
        fewest, most = max(0, wanted - above), place + 1
        while fewest < most:
            below = (fewest + most) // 2
            if middle - ordered[place - below] < ordered[place + wanted - below] - middle:
                fewest = below + 1
            else:
                most = below
        nearest = middle - ordered[place - fewest + 1] if fewest else 0.0
        return max(nearest, ordered[place + wanted - fewest] - middle if wanted > fewest else 0.0)

    def state(self) -> list[float]:
        """The values, filled up with NaN."""
        return filled(self.values, self.length)

    def load(self, values: Collection[float]) -> None:
        """Go on from what `state` gave."""
        self.clear()
        for value in there(values):
            self.add(value)


def filled(values: Collection[float], length: int) -> list[float]:
    """The values, filled up with NaN to a length that is always the same."""
    return [*values, *[math.nan] * (length - len(values))]


def there(values: Collection[float]) -> list[float]:
    """Those that `filled` was given."""
    return [value for value in values if not math.isnan(value)]
