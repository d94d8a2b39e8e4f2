"""How much of a window is hidden in spans, and how long what is made of it gets: integers alone, no tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

DENOISERS: tuple[tuple[str, float, float], ...] = (
    ("R", 3.0, 0.15),
    ("R", 8.0, 0.15),
    ("X", 3.0, 0.5),
    ("X", 8.0, 0.5),
    ("X", 64.0, 0.15),
    ("X", 64.0, 0.5),
)
"""Mode, mean length of spans and share hidden of UL2's denoisers (Tay et al. 2022, table 1), but for S, which hides the
last part of a text."""

MODES = ("R", "S", "X")


def share_of(filled: Integers, share: float) -> Integers:
    """The nearest whole number to a share of the tokens, (n,)."""
    found: Integers = np.rint(share * filled).astype(np.int64)
    return found


@dataclass(frozen=True)
class Corruption:
    """Spans hidden in a text, each of which one sentinel stands for (Raffel et al. 2020, section 3.1.4).

    Attributes:
        share: of the tokens that is hidden.
        mean: tokens of a span.
        most: spans that there are sentinels for.
    """

    share: float
    mean: float
    most: int

    def hidden(self, filled: Integers) -> Integers:
        """Tokens hidden of so many, (n,): one at least, and one at least is left. Of fewer than two, none."""
        return np.where(filled < 2, 0, np.clip(share_of(filled, self.share), 1, np.maximum(filled - 1, 1)))

    def spans(self, filled: Integers) -> Integers:
        """Spans that they form, (n,), with something left before each."""
        hidden = self.hidden(filled)
        wanted: Integers = np.maximum(np.rint(hidden / self.mean).astype(np.int64), 1)
        found: Integers = np.minimum(np.minimum(wanted, hidden), np.minimum(filled - hidden, self.most))
        return found

    def source(self, filled: Integers) -> Integers:
        """Tokens of the source, (n,): what is left, the sentinels and `end`."""
        return filled - self.hidden(filled) + self.spans(filled) + 1

    def target(self, filled: Integers) -> Integers:
        """Tokens of the target, (n,): the sentinels, what is hidden and `end`; none where nothing is hidden."""
        hidden = self.hidden(filled)
        return np.where(hidden > 0, hidden + self.spans(filled) + 1, 0)

    def widths(self, context: int) -> tuple[int, int]:
        """Positions that hold the source, and the target, of any window of at most so many tokens."""
        filled = np.arange(context + 1)
        return even(int(self.source(filled).max()), context), even(int(self.target(filled).max()), context)


def continued(filled: Integers) -> Integers:
    """Tokens of the last part of a text that UL2's S-denoiser hides on average, a quarter, (n,)."""
    return np.where(filled < 2, 0, np.maximum(share_of(filled, 0.25), 1))


def mixed_widths(corruptions: list[Corruption], context: int) -> tuple[int, int]:
    """Positions that hold what any of UL2's denoisers makes of a window of at most so many tokens, with its mode."""
    filled = np.arange(context + 1)
    source = max(1 + int(corruption.source(filled).max()) for corruption in corruptions)
    target = max(int(corruption.target(filled).max()) for corruption in corruptions)
    last = 2 * int(continued(filled).max()) - 1
    return even(max(source, context), context), even(max(target, last), context)


def even(width: int, context: int) -> int:
    """At least so many positions: a multiple of 8, which suits matrix units, where the context has room for it."""
    return max(1, width, min(-(-width // 8) * 8, context))
