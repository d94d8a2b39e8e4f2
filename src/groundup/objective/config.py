"""Options of the objectives; importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groundup.core.config import group, option, schema
from groundup.core.errors import ConfigError

if TYPE_CHECKING:
    from groundup.data.view import View
    from groundup.objective.base import Objective, Setting

group("objective", "what is minimised, and how its gradient is bounded")


@schema("objective", "pretrain")
class Pretrain:
    """Predict the next token at every position (causal language modelling)."""

    clip: float | None = option(1.0, "largest norm of the whole gradient; larger ones are scaled down to it", above=0)
    z_loss: float | None = option(
        None, "weight of the squared log-partition, which keeps logits small (PaLM: 1e-4)", at_least=0
    )
    balance: float = option(0.01, "with model.experts: weight of their uneven use (Fedus et al. 2022)", at_least=0)
    router_z: float = option(
        0.001, "with model.experts: weight of their routers' z-loss (Zoph et al. 2022)", at_least=0
    )

    def check(self, model: Any) -> None:
        """Whether a network of this config can be trained so.

        Raises:
            ConfigError: it cannot.
        """
        if getattr(model, "mask", "causal") != "causal":
            raise ConfigError(
                f"model.mask={model.mask}", "is not what objective=pretrain trains", "set objective=prefix"
            )

    def view(self, seed: int) -> View | None:
        """What is shown of the text; None: each token's successor is predicted."""
        del seed
        return None

    def build(self, model: Any, optimizer: Any, schedule: Any, setting: Setting) -> Objective:
        """The LightningModule that trains `model` (a config of the model group) on this objective."""
        from groundup.objective import pretrain

        return pretrain.Pretrain(self, model, optimizer, schedule, setting)


@schema("objective", "prefix")
class Prefix(Pretrain):
    """Predict the next token behind a part of each window that is given, and seen as a whole (prefix LM).

    Raffel et al. 2020, section 3.2.3; Dong et al. 2019, UniLM, whose sequence-to-sequence mask is the same.
    """

    def check(self, model: Any) -> None:
        """Whether a network of this config can be trained so.

        Raises:
            ConfigError: it cannot.
        """
        if getattr(model, "mask", "causal") != "prefix":
            raise ConfigError(
                "objective=prefix", "trains a network that sees ahead in what is given", "set model.mask=prefix"
            )

    def view(self, seed: int) -> View | None:
        """Windows of which a part is given."""
        from groundup.data.view import Split

        return Split(seed)
