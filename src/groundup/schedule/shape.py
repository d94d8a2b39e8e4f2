"""The curves schedules are made of: numbers in, a number in [0, 1] out; they know neither clocks nor configs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def rise(done: float, length: float) -> float:
    """Linear warm-up: 0 at the start, 1 from `length` on; 1 throughout where there is none."""
    return 1.0 if done >= length else done / length


def fall(shape: str, share: float, final: float) -> float:
    """From exactly 1 at share 0 down to exactly `final` at share 1, never rising, constant outside.

    Args:
        shape: "linear"; "cosine", half a wave (Loshchilov & Hutter 2017, SGDR); "sqrt", 1 - sqrt(share), the
            cooldown that Hägele et al. 2024 ("Scaling Laws and Compute-Optimal Training Beyond Fixed Training
            Durations") found best; "exponential", by the same factor in equal times; "inverse", whose inverse rises
            in a straight line (Wen et al. 2024, WSD-S). The last two never end at 0.
        share: how much of the decay is over.
        final: what is left at the end.

    Raises:
        KeyError: no such shape.
    """
    if share <= 0.0:
        return 1.0
    return final if share >= 1.0 else SHAPES[shape](share, final)


def held(steps: Sequence[Sequence[float]], done: float) -> float:
    """A staircase: 1 at first, and beyond each [reading, level] that level, until beyond the next.

    Args:
        steps: in the order of their readings.
        done: the clock reading.
    """
    level = 1.0
    for reading, next_level in steps:
        if done <= reading:
            break
        level = next_level
    return level


def _down_to(final: float, left: float) -> float:
    return min(1.0, final + (1.0 - final) * left)


SHAPES: dict[str, Callable[[float, float], float]] = {
    "linear": lambda share, final: _down_to(final, 1.0 - share),
    "sqrt": lambda share, final: _down_to(final, 1.0 - math.sqrt(share)),
    "cosine": lambda share, final: _down_to(final, (1.0 + math.cos(math.pi * share)) / 2.0),
    "exponential": lambda share, final: final**share,
    "inverse": lambda share, final: 1.0 / (1.0 + share * (1.0 / final - 1.0)),
}
"""Each falls from 1 to its second argument while its first goes from 0 to 1."""

ENDLESS = ("exponential", "inverse")
"""Shapes that come ever nearer to 0 and never there."""
