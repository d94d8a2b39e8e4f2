"""Who computes which step of a segment, and how stale what comes back is: integers alone, no weights, no processes."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable
from typing import NamedTuple


class Drawn(NamedTuple):
    """A step that a worker computes.

    Attributes:
        number: of the step in the run.
        version: updates done when the worker took the weights.
    """

    number: int
    version: int


class Ledger:
    """Numbers of steps, each drawn until it is done, and the bound on staleness.

    The staleness of an update is how many others were done between the worker's draw, when it takes the weights, and
    its own. Before a draw all that could still come between is counted: were every step now out to end before the
    oldest of them, it must not miss more updates than the bound, nor must the new one. So the bound holds whatever
    the workers' paces, and a worker whose draw could break it waits (stale synchronous, Ho et al. 2013).

    Args:
        following: the first number never drawn.
        missing: numbers below it that are not done.
        end: the number behind the last.
        bound: the most staleness; None: any.
    """

    def __init__(self, following: int, missing: Iterable[int], end: int, bound: int | None) -> None:
        self.following, self.end, self.bound = following, end, bound
        self.version = 0
        self._returned = sorted(missing)
        self._out: dict[Hashable, Drawn] = {}

    @property
    def missing(self) -> list[int]:
        """Numbers below `following` that are not done."""
        return sorted([*self._returned, *(drawn.number for drawn in self._out.values())])

    @property
    def done(self) -> bool:
        """Whether nothing is left to draw or to wait for."""
        return self.following >= self.end and not self._returned and not self._out

    def draw(self, worker: Hashable) -> Drawn | None:
        """A step for a worker, numbers that came back first; None: it has to wait.

        Raises:
            ValueError: the worker has a step already.
        """
        if worker in self._out:
            raise ValueError(f"{worker} has step {self._out[worker].number}")
        if not self._returned and self.following >= self.end:
            return None
        missed = max((self.version - drawn.version for drawn in self._out.values()), default=0)
        if self.bound is not None and missed + len(self._out) > self.bound:
            return None
        if self._returned:
            number = heapq.heappop(self._returned)
        else:
            number, self.following = self.following, self.following + 1
        self._out[worker] = Drawn(number, self.version)
        return self._out[worker]

    def push(self, worker: Hashable) -> tuple[int, int]:
        """The worker's step is done, and is the next update; its number and staleness.

        Raises:
            KeyError: it has none.
        """
        drawn = self._out.pop(worker)
        stale = self.version - drawn.version
        self.version += 1
        return drawn.number, stale

    def lose(self, worker: Hashable) -> int | None:
        """The worker is dead: its step's number, which is drawn again; None: it had none."""
        drawn = self._out.pop(worker, None)
        if drawn is None:
            return None
        heapq.heappush(self._returned, drawn.number)
        return drawn.number
