"""A prefix LM of two stacks: the encoder reads the first part of a window, the decoder writes the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from groundup.data.counts import Integers
from groundup.data.pairs import Pair, Row, lay_out, texts
from groundup.data.step import Batch
from groundup.data.view import Split


@dataclass(frozen=True)
class Continuation:
    """The first tokens of each window are the source, those after them the target (Raffel et al. 2020, section 3.2).

    Attributes:
        split: how many are given; as many are predicted as by a decoder with that split, and the same ones.
        end: the id that opens documents.
        start: the id that the decoder begins with; None: `end`.
    """

    split: Split
    end: int
    start: int | None = None

    def targets(self, samples: Integers, filled: Integers) -> Integers:
        """What is not given, and the successor of the last."""
        return self.split.targets(samples, filled)

    def show(self, batch: Batch, samples: Integers, filled: Integers) -> Batch:
        """The given part as source, the others as target."""
        given = self.split.given(samples, filled).tolist()
        rows = texts(batch, samples, filled)
        context = batch.tokens_BT.shape[1]
        pairs = [self._pair(*row) for row in zip(rows, given, strict=True)]
        return lay_out(pairs, (context, context), self.end, self.start)

    def _pair(self, row: Row, given: int) -> Pair:
        if not row.tokens.size:
            return Pair(row.tokens, row.documents, row.tokens, row.documents)
        return parted(np.append(row.tokens, row.successor), row.documents, given)


def parted(tokens: Integers, documents: Integers, given: int) -> Pair:
    """A text parted in two.

    A document that begins in the second part is given its first token, `end`, as source, so that it has one.

    Args:
        tokens: (n,).
        documents: of all but the last, (n - 1,).
        given: tokens of the first part, at least 1 and fewer than n.
    """
    read = documents[given - 1 :]
    source = np.concatenate((np.arange(given), given + np.flatnonzero(read[1:] != read[:-1])))
    return Pair(tokens[source], documents[source], tokens[given:], read)
