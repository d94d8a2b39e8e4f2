"""Where documents begin inside windows of tokens, told from the tokens alone and from nothing outside the window.

The token `end` closes the document before it and is the first token of context of the one after it: so it belongs to
the document it opens, and predicting it belongs to the document it closes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[Any]


def documents(tokens: Tokens, end: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The document each token of a window belongs to, and its position in that document.

    Args:
        tokens: (windows, length).
        end: the token that opens a document.

    Returns:
        Two arrays (windows, length): how many `end` tokens the window has up to and including this one, and how many
        tokens of the same document stand before it in the window.
    """
    rows, length = tokens.shape
    hits = np.flatnonzero(tokens.ravel() == end)
    row_starts = np.arange(rows, dtype=np.int64) * length
    before_row = np.searchsorted(hits, row_starts, side="left")
    # Tokens are many and document starts few: everything is worked out for the starts and repeated.
    starts = np.union1d(hits, row_starts)
    lengths = np.diff(starts, append=rows * length)
    number = np.searchsorted(hits, starts, side="right") - before_row[starts // max(length, 1)]
    position = np.arange(rows * length, dtype=np.int64)
    position -= np.repeat(starts, lengths)
    return np.repeat(number.astype(np.int32), lengths).reshape(rows, length), position.reshape(rows, length)
