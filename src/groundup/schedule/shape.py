"""The curves schedules are made of: numbers in, a number in [0, 1] out; they know neither clocks nor configs."""

from __future__ import annotations

import math
from collections.abc import Callable


def rise(done: float, length: float) -> float:
    """Linear warm-up: 0 at the start, 1 from `length` on; 1 throughout where there is none."""
    return 1.0 if done >= length else done / length


def fall(shape: str, share: float, final: float) -> float:
    """From exactly 1 at share 0 down to exactly `final` at share 1, never rising, constant outside.

    Args:
        shape: "linear"; "cosine", half a wave (Loshchilov & Hutter 2017, SGDR); "sqrt", 1 - sqrt(share), the
            cooldown that Hägele et al. 2024 ("Scaling Laws and Compute-Optimal Training Beyond Fixed Training
            Durations") found best.
        share: how much of the decay is over.
        final: what is left at the end.

    Raises:
        KeyError: no such shape.
    """
    left = SHAPES[shape](min(max(share, 0.0), 1.0))
    if left >= 1.0:
        return 1.0
    return final + (1.0 - final) * left if left > 0.0 else final


SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda share: 1.0 - share,
    "sqrt": lambda share: 1.0 - math.sqrt(share),
    "cosine": lambda share: (1.0 + math.cos(math.pi * share)) / 2.0,
}
"""Each falls from 1 to 0 while its argument goes from 0 to 1."""
