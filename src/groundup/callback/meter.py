"""Tokens per second of work, pauses left out; it knows marks in time and no trainer.

On a CUDA device a mark is an event in its stream: it tells when the device got there, and asking whether it
has does not wait. So the host may run ahead by some steps and the figures are still the device's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch


class Mark(Protocol):
    """A point in time that may still lie ahead."""

    def reached(self) -> bool:
        """Whether it has passed; never waits."""
        ...

    def since(self, earlier: Any) -> float:
        """Seconds after an earlier mark of the same kind; both must have been reached."""
        ...


@dataclass(frozen=True)
class HostMark:
    """A point in the host's time."""

    seconds: float

    def reached(self) -> bool:
        """Always."""
        return True

    def since(self, earlier: HostMark) -> float:
        """Seconds between the two."""
        return self.seconds - earlier.seconds


class DeviceMark:
    """The point at which a CUDA device has done all that was queued so far."""

    def __init__(self) -> None:
        self._event: torch.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # theirs
        self._event.record()

    def reached(self) -> bool:
        """Whether the device is there yet."""
        return self._event.query()

    def since(self, earlier: DeviceMark) -> float:
        """Seconds between the two."""
        return earlier._event.elapsed_time(self._event) / 1000.0


def clock(device: torch.device) -> Callable[[], Mark]:
    """What makes marks for work on this device."""
    if device.type == "cuda":
        return DeviceMark
    return lambda: HostMark(time.perf_counter())


@dataclass(frozen=True)
class _Step:
    tokens: int
    pieces: list[tuple[Mark, Mark]]

    def reached(self) -> bool:
        return all(end.reached() for _, end in self.pieces)

    def seconds(self) -> float:
        return sum(end.since(begin) for begin, end in self.pieces)


class Meter:
    """Counts tokens and the seconds they took, step by step.

    A step lasts from the end of the one before, waiting for data included, to its own end, without what lies
    between `pause` and `resume`. The first step is not part of the rate: it compiles and allocates.

    Args:
        now: makes a mark at the present point.
        window: steps the rate is averaged over.
    """

    def __init__(self, now: Callable[[], Mark], window: int) -> None:
        self._now = now
        self._begin: Mark | None = None
        self._depth = 0
        self._pieces: list[tuple[Mark, Mark]] = []
        self._pending: deque[_Step] = deque()
        self._recent: deque[tuple[int, float]] = deque(maxlen=window)
        self._seconds = 0.0
        self._settled = 0

    def start(self) -> None:
        """The first step begins now."""
        self._begin, self._depth, self._pieces = self._now(), 0, []

    def step(self, tokens: int) -> None:
        """A step that took in so many tokens ends now, and the next begins."""
        end = self._close()
        self._pending.append(_Step(tokens, self._pieces))
        self._pieces, self._begin = [], end
        self._settle()

    def pause(self) -> None:
        """From now on time does not count; pauses within pauses are one."""
        self._close()
        self._depth += 1

    def resume(self) -> None:
        """The end of a pause."""
        self._depth -= 1
        if self._depth == 0:
            self._begin = self._now()

    @property
    def tokens_per_second(self) -> float | None:
        """Over the last steps that are known to be done; None before there are two."""
        self._settle()
        seconds = sum(seconds for _, seconds in self._recent)
        return sum(tokens for tokens, _ in self._recent) / seconds if seconds > 0 else None

    @property
    def seconds(self) -> float:
        """Of all steps known to be done."""
        self._settle()
        return self._seconds

    def _close(self) -> Mark | None:
        end = None
        if self._begin is not None:
            end = self._now()
            self._pieces.append((self._begin, end))
            self._begin = None
        return end

    def _settle(self) -> None:
        while self._pending and self._pending[0].reached():
            step = self._pending.popleft()
            seconds = step.seconds()
            self._seconds += seconds
            self._settled += 1
            if self._settled > 1:
                self._recent.append((step.tokens, seconds))
