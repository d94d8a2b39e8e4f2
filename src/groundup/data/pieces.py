"""What the ids of a tokenizer are in a text: where words begin and where sentences end; windows it knows none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]

_SENTENCE_END = re.compile(r"[.!?。！？]['\"’”»)\]}」』]*\s*\Z")


class Pieces(Protocol):
    """What is asked of a tokenizer."""

    @property
    def vocabulary(self) -> int:
        """Ids are 0 .. vocabulary - 1."""

    @property
    def end(self) -> int:
        """The id that opens documents."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""


class Words(NamedTuple):
    """Which ids begin words, which are parted by whitespace; an id without text is a word of its own.

    Attributes:
        opens: whether the id's text begins with whitespace, (V,).
        closes: whether it ends in whitespace, (V,).
    """

    opens: Flags
    closes: Flags

    def begin(self, tokens_BT: NDArray[Any]) -> Flags:
        """Whether a word begins at each token, (B, T)."""
        begins_BT: Flags = self.opens[tokens_BT]
        begins_BT[:, 1:] |= self.closes[tokens_BT[:, :-1]]
        begins_BT[:, 0] = True
        return begins_BT


def words(tokenizer: Pieces) -> Words:
    """Where words begin in what a tokenizer makes of a text."""
    pieces = texts(tokenizer)
    opens = [not piece or piece[0].isspace() for piece in pieces]
    closes = [not piece or piece[-1].isspace() for piece in pieces]
    return Words(np.array(opens), np.array(closes))


def sentence_ends(tokenizer: Pieces) -> Flags:
    """Whether the text of each id ends a sentence, (V,): by . ! or ?, and what closes quotes and brackets."""
    return np.array([_SENTENCE_END.search(piece) is not None for piece in texts(tokenizer)])


def texts(tokenizer: Pieces) -> list[str]:
    """The text of each id inside a text, empty for special ids."""
    # Twice, as decoding may take away a space in front of the whole.
    twice = (tokenizer.decode([number, number]) for number in range(tokenizer.vocabulary))
    return [text[len(tokenizer.decode([number])) :] for number, text in enumerate(twice)]
