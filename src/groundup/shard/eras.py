"""Mixtures one after another, as a run whose weights were changed on its way has them; why they were is not known here.

Every source goes on where it stood, so that nothing is passed over and nothing is drawn twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.shard.mixture import Mixture
from groundup.shard.weights import Knots

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Mix:
    """Weights that hold from a sample on.

    Attributes:
        first: the sample.
        weights: as `weights.parse` takes them; their points are counted from the start of the run.
        over: in so many samples the shares move to them in a straight line; 0: at once.
    """

    first: int
    weights: dict[str, Any]
    over: int = 0


class Eras:
    """What `Mixture` answers, of several that take over from each other.

    Args:
        eras: for each the index from which on it holds, the first from 0, and the mixture, counted from there.
    """

    def __init__(self, eras: Sequence[tuple[int, Mixture]]) -> None:
        self._firsts = np.array([first for first, _ in eras], dtype=np.int64)
        self._mixtures = [mixture for _, mixture in eras]
        self.sources = self._mixtures[0].sources
        self._before = [np.zeros(self.sources, dtype=np.int64)]
        for (first, mixture), (following, _) in pairwise(eras):
            self._before.append(self._before[-1] + mixture.counts(following - first))

    @property
    def knots(self) -> Knots:
        """Every sample where shares bend, and the shares there."""
        numbered = zip(self._firsts.tolist(), self._mixtures, strict=True)
        return [(first + sample, shares) for first, mixture in numbered for sample, shares in mixture.knots]

    def locate(self, index: Integers) -> tuple[Integers, Integers]:
        """For each index the number of its source, and how many samples that source gave before it."""
        index = np.asarray(index, dtype=np.int64)
        era = np.searchsorted(self._firsts, index, side="right") - 1
        source, number = np.empty_like(index), np.empty_like(index)
        for each in np.unique(era).tolist():
            rows = np.flatnonzero(era == each)
            source[rows], drawn = self._mixtures[each].locate(index[rows] - self._firsts[each])
            number[rows] = drawn + self._before[each][source[rows]]
        return source, number

    def counts(self, index: int) -> Integers:
        """How many of the first `index` samples are drawn from each source: (sources,)."""
        each = int(np.searchsorted(self._firsts, index, side="right")) - 1
        counted: Integers = self._before[each] + self._mixtures[each].counts(index - int(self._firsts[each]))
        return counted
