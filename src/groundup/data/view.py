"""What an objective shows of the windows: pure functions of a sample's number, so that counts are known beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from groundup.core.keyed import derive

if TYPE_CHECKING:
    from groundup.data.pieces import Pieces
    from groundup.data.step import Batch

Integers = NDArray[np.int64]


class View(Protocol):
    """How windows of text become what a network reads and predicts; it is picklable."""

    def targets(self, samples: Integers, filled: Integers) -> Integers:
        """How many positions of each sample are predicted.

        Args:
            samples: their numbers, (n,).
            filled: tokens of each that have a successor, (n,).
        """

    def show(self, batch: Batch, samples: Integers, filled: Integers) -> Batch:
        """What is made of a micro-batch whose targets are the successors; samples are numbered as above, one a row.

        The shapes of what is made depend on those of the micro-batch alone, as a compiler wants it.
        """


def view_of(objective: Any, seed: int, tokenizer: Pieces, model: Any) -> View | None:
    """What an objective shows of the text; None: each token's successor is predicted. A plugin's need not say.

    Args:
        objective: its config.
        seed: of the run.
        tokenizer: of the text.
        model: config of the network that reads it.
    """
    found: View | None = objective.view(seed, tokenizer, model) if hasattr(objective, "view") else None
    return found


@dataclass(frozen=True)
class Split:
    """The first tokens of each window are given, the others predicted (prefix LM; Raffel et al. 2020, section 3.2).

    The given part has any length from 1 to the whole, all equally likely.

    Attributes:
        seed: names the splits.
    """

    seed: int

    def given(self, samples: Integers, filled: Integers) -> Integers:
        """Tokens of each sample that are given."""
        shares = np.array([derive(self.seed, "split", int(sample)) >> 11 for sample in samples]) * 2.0**-53
        found: Integers = 1 + np.floor(shares * np.maximum(filled - 1, 0)).astype(np.int64)
        return found

    def targets(self, samples: Integers, filled: Integers) -> Integers:
        """The first that is predicted is the successor of the last that is given."""
        found: Integers = np.maximum(filled - self.given(samples, filled) + 1, 0)
        return found

    def show(self, batch: Batch, samples: Integers, filled: Integers) -> Batch:
        """The batch with the given tokens marked, and without the targets that are given."""
        from groundup.data.step import IGNORED, Batch

        given_B1 = torch.from_numpy(self.given(samples, filled))[:, None]
        places_T = torch.arange(batch.tokens_BT.shape[1])
        targets_BT = batch.targets_BT.masked_fill(places_T < given_B1 - 1, IGNORED)
        return Batch(batch.tokens_BT, targets_BT, batch.documents_BT, batch.positions_BT, places_T < given_B1)
