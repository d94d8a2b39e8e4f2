"""Options of the objectives; importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groundup.core.config import group, option, schema

if TYPE_CHECKING:
    from groundup.objective.base import Objective, Setting

group("objective", "what is minimised, and how its gradient is bounded")


@schema("objective", "pretrain")
class Pretrain:
    """Predict the next token at every position (causal language modelling)."""

    clip: float | None = option(1.0, "largest norm of the whole gradient; larger ones are scaled down to it", above=0)
    z_loss: float | None = option(
        None, "weight of the squared log-partition, which keeps logits small (PaLM: 1e-4)", at_least=0
    )

    def build(self, model: Any, optimizer: Any, schedule: Any, setting: Setting) -> Objective:
        """The LightningModule that trains `model` (a config of the model group) on this objective."""
        from groundup.objective import pretrain

        return pretrain.Pretrain(self, model, optimizer, schedule, setting)
