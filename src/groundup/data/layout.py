"""How the one or two texts of an example stand in a row of tokens; what is asked of them is not known here.

A row is `end first end`, or `end first end second end`, so that it begins as every document of a stream does and each
text is closed by the token that closes documents. The text comes first and its pair second; where a place in the text
is asked for the pair does, since it then is a question, which a network that looks back only must have read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

Tokens = NDArray[Any]


class Place(NamedTuple):
    """Where things stand in a row.

    Attributes:
        length: tokens, all ends included; behind them there is padding.
        second: the first position of the second text, `length` where there is none; segments change here.
        first_of_text: the first position of the text, its `end` before it left out.
        behind_text: the position behind its last token.
    """

    length: int
    second: int
    first_of_text: int
    behind_text: int


@dataclass(frozen=True)
class Layout:
    """Rows of a fixed width.

    Attributes:
        context: positions of a row, at least 8.
        end: the id that opens and closes texts.
        pair_first: the pair stands before the text.
    """

    context: int
    end: int
    pair_first: bool = False

    def kept(self, text: int, pair: int | None) -> tuple[int, int]:
        """Tokens that are kept of a text and its pair, each from its start.

        Where they do not fit, the text is cut, down to half of the room; then the pair.
        """
        room = self.context - (2 if pair is None else 3)
        kept_text = max(min(text, room - (pair or 0)), min(text, room // 2))
        return kept_text, min(pair or 0, room - kept_text)

    def fill(self, row: Tokens, text: Tokens, pair: Tokens | None) -> Place:
        """Write an example into a row (context,), and say where it stands; the rest of the row becomes `end`."""
        kept = self.kept(len(text), None if pair is None else len(pair))
        parts = [text[: kept[0]]] if pair is None else [text[: kept[0]], pair[: kept[1]]]
        if self.pair_first:
            parts.reverse()
        row[:] = self.end
        begin, begins = 1, []
        for part in parts:
            row[begin : begin + len(part)] = part
            begins.append(begin)
            begin += len(part) + 1
        at = begins[-1 if self.pair_first else 0]
        return Place(begin, begins[1] if len(begins) > 1 else begin, at, at + kept[0])
