"""The focal loss: what is minimised instead of the plain likelihood."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from groundup.data.step import Batch
from groundup.objective.base import Objective
from my_parts.config import Focal as Config


class Focal(Objective):
    """Sum of -(1 - p)^gamma log p over the targets, p being the probability the net gave to each."""

    config: Config

    def forward(self, batch: Batch) -> Tensor:
        """Negative log-likelihood of each target, (B, T), zero where there is none."""
        return self.score(batch)

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over targets, and the plain likelihood to log beside it."""
        del batch
        weights_BT = (1 - (-output).exp()) ** self.config.gamma
        return (weights_BT * output).sum(), {"nll": output.sum()}
