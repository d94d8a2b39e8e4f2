"""Maximum likelihood of the targets that a view shows, the next token at every position or others."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from groundup.data.step import Batch
from groundup.objective import losses
from groundup.objective.base import Objective, Setting
from groundup.objective.config import Pretrain as Config


class Pretrain(Objective):
    """Maximum likelihood of each target, optionally with z-loss, and with the losses of experts where there are any."""

    config: Config

    def __init__(self, config: Config, model: Any, optimizer: Any, schedule: Any, setting: Setting) -> None:
        super().__init__(config, {"model": model}, optimizer, schedule, setting)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Per-token negative log-likelihood, (B, T), and what the further losses need.

        These are log-partitions, (B, T), and how uneven routers of experts are, (B, 2).
        """
        net = self.nets["model"]
        asked = {"with_log_z": bool(self.config.z_loss), "with_routing": bool(getattr(net, "routes", False))}
        if not any(asked.values()):
            return self.score(batch), None, None
        nll_BT, *rest = net(**self.shown(batch), **{name: True for name, wanted in asked.items() if wanted})
        log_z_BT = rest.pop(0) if asked["with_log_z"] else None
        return nll_BT, log_z_BT, rest.pop() if rest else None

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the likelihoods' negative logarithms, of the z-loss, and of the experts' losses.

        Those of a row count once for each of its targets.
        """
        nll_BT, log_z_BT, uneven_B2 = output
        nll: Tensor = nll_BT.sum()
        total, metrics = nll, {}
        if log_z_BT is not None:
            metrics["z_loss"] = losses.z_loss(log_z_BT, batch.targets_BT >= 0)
            total = total + (self.config.z_loss or 0.0) * metrics["z_loss"]
        if uneven_B2 is not None:
            metrics["balance"], metrics["router_z"] = uneven_B2.T @ (batch.targets_BT >= 0).sum(dim=1).to(
                uneven_B2.dtype
            )
            total = total + self.config.balance * metrics["balance"] + self.config.router_z * metrics["router_z"]
        return total, {"nll": nll, **metrics} if metrics else {}
