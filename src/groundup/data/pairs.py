"""What an encoder reads and a decoder writes of windows, laid out in tensors; how a text is parted is not known here.

Shape letters: B rows, S positions of the source, T of the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from groundup.data.counts import Integers
from groundup.data.step import IGNORED, Batch


class Row(NamedTuple):
    """The text of a window.

    Attributes:
        sample: its number.
        tokens: those that are there, (n,).
        documents: the document of each, (n,), all 0 where they are not told apart.
        successor: the token that follows.
    """

    sample: int
    tokens: Integers
    documents: Integers
    successor: int


class Pair(NamedTuple):
    """A source and the target that is made of it.

    Attributes:
        source: tokens that the encoder reads, (s,).
        source_documents: the document of each, (s,), rising.
        target: tokens that the decoder writes, (t,).
        documents: of the token before each of these, which is what it is predicted from, (t,), rising.
    """

    source: Integers
    source_documents: Integers
    target: Integers
    documents: Integers


def texts(batch: Batch, samples: Integers, filled: Integers) -> Iterator[Row]:
    """The windows of a micro-batch whose targets are the successors, with their padding cut off."""
    tokens_BT, targets_BT = batch.tokens_BT.numpy(), batch.targets_BT.numpy()
    documents_BT = np.zeros_like(tokens_BT) if batch.documents_BT is None else batch.documents_BT.numpy()
    for row, (sample, length) in enumerate(zip(samples.tolist(), filled.tolist(), strict=True)):
        successor = int(targets_BT[row, max(length - 1, 0)])
        yield Row(sample, tokens_BT[row, :length], documents_BT[row, :length].astype(np.int64), successor)


def read_before(documents: Integers) -> Integers:
    """The documents of what a decoder reads, (t,), by those of what it writes: it begins as the first one."""
    return np.concatenate((documents[:1], documents[:-1]))


def lay_out(pairs: Sequence[Pair], widths: tuple[int, int], end: int, start: int | None) -> Batch:
    """Pairs side by side.

    The decoder reads `start` and then what it has written. What is missing is `end`: in the source of a document of
    its own, -1, and behind the target of the last one, so that no position sees nothing. Positions are counted anew in
    each document. An empty source is one `end`.

    Args:
        pairs: one a row.
        widths: S and T.
        end: the id that ends documents.
        start: the id that the decoder begins with; None: `end`.
    """
    rows, (sources, targets) = len(pairs), widths
    source_BS, source_documents_BS = np.full((rows, sources), end), np.full((rows, sources), -1, dtype=np.int32)
    tokens_BT, targets_BT = np.full((rows, targets), end), np.full((rows, targets), IGNORED)
    tokens_BT[:, 0] = end if start is None else start
    documents_BT = np.zeros((rows, targets), dtype=np.int32)
    source_documents_BS[:, 0] = 0
    for row, pair in enumerate(pairs):
        read, written = pair.source.size, pair.target.size
        source_BS[row, :read], source_documents_BS[row, :read] = pair.source, pair.source_documents
        targets_BT[row, :written], tokens_BT[row, 1:written] = pair.target, pair.target[:-1]
        documents_BT[row] = pair.documents[-1] if written else source_documents_BS[row, 0]
        documents_BT[row, :written] = pair.documents
    return Batch(
        tokens_BT=torch.from_numpy(tokens_BT),
        targets_BT=torch.from_numpy(targets_BT),
        documents_BT=torch.from_numpy(documents_BT),
        positions_BT=torch.from_numpy(_positions(documents_BT)),
        source_BS=torch.from_numpy(source_BS),
        source_documents_BS=torch.from_numpy(source_documents_BS),
        source_positions_BS=torch.from_numpy(_positions(source_documents_BS)),
    )


def _positions(documents_BT: NDArray[Any]) -> Integers:
    """How many positions of the same document stand before each."""
    places = np.arange(documents_BT.shape[1])
    first_BT = np.zeros(documents_BT.shape, dtype=np.int64)
    first_BT[:, 1:] = np.where(documents_BT[:, 1:] != documents_BT[:, :-1], places[1:], 0)
    found: Integers = places - np.maximum.accumulate(first_BT, axis=1)
    return found
