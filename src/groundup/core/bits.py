"""Bits per byte, the unit in which models with different tokenizers can be compared; it knows no model and no data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

OF_TEXT = "bits per byte"
"""What held-out figures are in, where every byte of the text is predicted."""

OF_HIDDEN = "bits per hidden byte"
"""The same, where only what is hidden is: its bits (and those of sentinels), per byte of it and not of the text."""

OF_RESTORED = "bits per restored byte"
"""The same, where the whole text is predicted by what has seen it with noise."""

MEANINGS = {
    OF_TEXT: "bits per UTF-8 byte",
    OF_HIDDEN: "bits per UTF-8 byte of what is hidden, told from what is shown: no measure of the text as a whole",
    OF_RESTORED: "bits per UTF-8 byte, told from a copy with noise: no measure of the text by itself",
}
"""These in a sentence."""


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


def told(figures: Mapping[str, float], unit: str = OF_TEXT) -> str:
    """Figures of all text and of each source in a line; or, where there is no `all`, measures on examples."""
    if "loss" in figures and "all" not in figures:
        others = (f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items() if name != "count")
        return f"held out: {', '.join(others)}  ({figures.get('count', 0):.0f} examples)"
    each = ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if name != "all")
    whole = f"{figures['all']:.4f}" if "all" in figures else "–"
    return f"held-out {unit} {whole}" + (f"  ({each})" if each else "")


def sought(figures: Mapping[str, float]) -> float:
    """The figure that should become small: bits per byte of all text, or the loss on examples."""
    return figures["all"] if "all" in figures else figures.get("loss", math.nan)


def per_source(tallies: Mapping[str, Tally]) -> dict[str, float]:
    """Bits per byte of every source, and of their texts together under the name `all`."""
    figures = {name: tally.bits_per_byte for name, tally in tallies.items()}
    return {**figures, "all": sum(tallies.values(), Tally()).bits_per_byte}
