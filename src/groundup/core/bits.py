"""Bits per byte, the unit in which models with different tokenizers can be compared; it knows no model and no data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


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


def told(figures: Mapping[str, float]) -> str:
    """Bits per byte of all text and of each source in a line; or, where there is no `all`, measures on examples."""
    if "loss" in figures and "all" not in figures:
        others = (f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items() if name != "count")
        return f"held out: {', '.join(others)}  ({figures.get('count', 0):.0f} examples)"
    each = ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if name != "all")
    whole = f"{figures['all']:.4f}" if "all" in figures else "–"
    return f"held-out bits per byte {whole}" + (f"  ({each})" if each else "")


def sought(figures: Mapping[str, float]) -> float:
    """The figure that should become small: bits per byte of all text, or the loss on examples."""
    return figures["all"] if "all" in figures else figures.get("loss", math.nan)


def per_source(tallies: Mapping[str, Tally]) -> dict[str, float]:
    """Bits per byte of every source, and of their texts together under the name `all`."""
    figures = {name: tally.bits_per_byte for name, tally in tallies.items()}
    return {**figures, "all": sum(tallies.values(), Tally()).bits_per_byte}
