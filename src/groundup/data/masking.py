"""Masked language modelling: some tokens of a window are hidden and told from all around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from groundup.core.keyed import generator
from groundup.data.counts import Integers, share_of
from groundup.data.pieces import Words
from groundup.data.step import IGNORED, Batch


@dataclass(frozen=True, eq=False)
class Masked:
    """Some tokens are hidden, and predicted where they stand (Devlin et al. 2019, BERT, section 3.1).

    With `words`, whole words are hidden until enough tokens are, and of the last one as many are predicted as are
    missing (whole-word masking, of BERT's later release; Cui et al. 2019).

    Attributes:
        seed: names the draws.
        share: of the tokens that is predicted.
        masked: of the hidden, the share that the mask stands for.
        random: of the hidden, the share that a random id stands for; the others stay.
        mask: the mask's id.
        vocabulary: random ids lie below.
        end: the id that opens documents; it is hidden where nothing else is left.
        words: where words begin; None: tokens are hidden one by one.
    """

    seed: int
    share: float
    masked: float
    random: float
    mask: int
    vocabulary: int
    end: int
    words: Words | None = None

    def targets(self, samples: Integers, filled: Integers) -> Integers:
        """The share, and one at least, whatever the sample's number."""
        del samples
        return np.where(filled > 0, np.maximum(share_of(filled, self.share), 1), 0)

    def show(self, batch: Batch, samples: Integers, filled: Integers) -> Batch:
        """The batch with tokens hidden, and these as targets.

        Padding is a document of its own, as all of a document is seen; documents are told apart where there is any.
        """
        tokens_BT = batch.tokens_BT.numpy()
        length = tokens_BT.shape[1]
        draws = [generator(self.seed, "masked", int(sample)) for sample in samples]
        fate_BT = np.stack([draw.random(length) for draw in draws])
        others_BT = np.stack([draw.integers(self.vocabulary, size=length) for draw in draws])
        turn_BT = np.stack([draw.random(length) for draw in draws])
        begins_BT = np.ones_like(tokens_BT, dtype=bool) if self.words is None else self.words.begin(tokens_BT)
        # All tokens of a word have one turn; then comes what opens documents, and never what is not there.
        turn_BT = np.take_along_axis(turn_BT, begins_BT.cumsum(axis=1) - 1, axis=1) + (tokens_BT == self.end)
        turn_BT[np.arange(length) >= filled[:, None]] = np.inf
        order_BT = turn_BT.argsort(axis=1, kind="stable")
        rank_BT = order_BT.argsort(axis=1)
        count_B1 = self.targets(samples, filled)[:, None]
        last_B1 = np.take_along_axis(order_BT, np.maximum(count_B1 - 1, 0), axis=1)
        hidden_BT = (turn_BT <= np.take_along_axis(turn_BT, last_B1, axis=1)) & (count_B1 > 0)
        shown_BT = np.where(hidden_BT & (fate_BT < self.masked), self.mask, tokens_BT)
        replaced_BT = hidden_BT & (fate_BT >= self.masked) & (fate_BT < self.masked + self.random)
        return Batch(
            torch.from_numpy(np.where(replaced_BT, others_BT, shown_BT)),
            torch.from_numpy(np.where(rank_BT < count_B1, tokens_BT, IGNORED)),
            *_documents(batch, filled),
        )


def _documents(batch: Batch, filled: Integers) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Documents and positions, padding apart from the text before it."""
    length = batch.tokens_BT.shape[1]
    padded_BT = torch.arange(length) >= torch.from_numpy(filled)[:, None]
    if batch.documents_BT is not None:
        return batch.documents_BT + padded_BT.int(), batch.positions_BT
    if not ((filled > 0) & (filled < length)).any():
        return None, None
    return padded_BT.int(), torch.arange(length).expand(padded_BT.shape).contiguous()
