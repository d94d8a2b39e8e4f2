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
    hits = (tokens.ravel() == end).nonzero()[0]
    # Tokens are many and starts of documents and rows few: all is worked out for the starts and repeated. A start
    # that is both stands there twice, the first time with no token.
    row_starts = np.arange(0, rows * length, length) if rows else hits
    bounds = np.concatenate((hits, row_starts, [rows * length]))
    bounds.sort()
    starts, lengths = bounds[:-1], bounds[1:] - bounds[:-1]
    number = hits.searchsorted(starts, side="right") - hits.searchsorted(starts - starts % length)
    position = np.arange(rows * length, dtype=np.int64)
    position -= starts.repeat(lengths)
    return number.astype(np.int32).repeat(lengths).reshape(rows, length), position.reshape(rows, length)
