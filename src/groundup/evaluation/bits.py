"""Bits per byte, the unit in which models with different tokenizers can be compared; it knows no model and no data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from groundup.core.keyed import generator


@dataclass(frozen=True)
class Tally:
    """What was measured on some text.

    Attributes:
        nats: summed negative log-likelihood of its tokens.
        bytes: UTF-8 bytes those tokens stand for.
        tokens: how many they are.
    """

    nats: float = 0.0
    bytes: int = 0
    tokens: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.nats + other.nats, self.bytes + other.bytes, self.tokens + other.tokens)

    @property
    def bits_per_byte(self) -> float:
        """See `bits_per_byte`."""
        return bits_per_byte(self.nats, self.bytes)


def bits_per_byte(nats: float, bytes: int) -> float:
    """Negative log-likelihood in bits, per UTF-8 byte of the text.

    Args:
        nats: summed over all tokens of the text, ends of documents included.
        bytes: of the text itself; tokens that stand for no text add nats and no bytes.

    Returns:
        `nats / (ln 2 * bytes)`, or NaN for an empty text.
    """
    return nats / (math.log(2) * bytes) if bytes else math.nan


def per_source(tallies: Mapping[str, Tally]) -> dict[str, float]:
    """Bits per byte of every source, and of their texts together under the name `all`."""
    figures = {name: tally.bits_per_byte for name, tally in tallies.items()}
    return {**figures, "all": sum(tallies.values(), Tally()).bits_per_byte}


def interval(
    nats: np.ndarray, bytes: np.ndarray, *, seed: int = 0, level: float = 0.95, resamples: int = 1000
) -> tuple[float, float]:
    """A bootstrap interval for the bits per byte of a text, drawing whole documents with replacement.

    The statistic is a ratio of sums, so documents count by their length (Efron & Tibshirani 1993, percentile method).

    Args:
        nats: (documents,) summed negative log-likelihood of each.
        bytes: (documents,) length of each.
        seed: of the draws; the same one gives the same interval.
        level: the share of resamples inside the interval.
        resamples: how many.

    Returns:
        Its lower and upper end.

    Raises:
        ValueError: there is no document, or the two do not belong together.
    """
    if nats.shape != bytes.shape or nats.ndim != 1 or not len(nats):
        raise ValueError(f"nats {nats.shape} and bytes {bytes.shape} must be one entry per document")
    draws = generator(seed, "bits", "bootstrap")
    figures = np.empty(resamples)
    for i in range(resamples):
        chosen = draws.integers(0, len(nats), len(nats))
        figures[i] = bits_per_byte(float(nats[chosen].sum()), int(bytes[chosen].sum()))
    low, high = np.nanquantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
