"""Causal language modelling: the next token at every position."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from groundup.data.step import Batch
from groundup.objective import losses
from groundup.objective.base import Objective, Setting
from groundup.objective.config import Pretrain as Config


class Pretrain(Objective):
    """Maximum likelihood of each next token, optionally with z-loss."""

    config: Config

    def __init__(self, config: Config, model: Any, optimizer: Any, schedule: Any, setting: Setting) -> None:
        super().__init__(config, {"model": model}, optimizer, schedule, setting)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Per-token negative log-likelihood and, where z-loss needs it, log-partition: (B, T) each."""
        if not self.config.z_loss:
            return self.score(batch), None
        arguments = (batch.tokens_BT, batch.targets_BT, batch.documents_BT, batch.positions_BT)
        return cast(tuple[Tensor, Tensor], self.nets["model"](*arguments, with_log_z=True))

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the likelihoods' negative logarithms, and of the z-loss."""
        nll_BT, log_z_BT = output
        nll: Tensor = nll_BT.sum()
        if log_z_BT is None or self.config.z_loss is None:
            return nll, {}
        z = losses.z_loss(log_z_BT, batch.targets_BT >= 0)
        return nll + self.config.z_loss * z, {"nll": nll, "z_loss": z}
