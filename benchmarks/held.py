"""A plugin of the layouts' table: what each rank holds at its first update, noted in the run's folder."""

from __future__ import annotations

import json
from typing import Any

import lightning

from groundup.core import ranks
from groundup.core.config import schema
from groundup.model.parts import held


@schema("callback", "held")
class Held:
    """Notes bytes of weights, gradients and optimizer state."""

    def build(self) -> lightning.Callback:
        """The callback."""
        return Notes()


class Notes(lightning.Callback):
    """Writes `held-RANK.json`."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Weights and gradients are looked at as the optimizer finds them."""
        self.bytes: dict[str, int] = {}
        trainer.optimizers[0].register_step_pre_hook(lambda *_: self._note(list(pl_module.nets.parameters())))

    def _note(self, parameters: list[Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.bytes |= {"weights": held(parameters), "gradients": held(gradients)}

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """By now there is optimizer state; its counters of steps are left out."""
        state = trainer.optimizers[0].state.values()
        kept = [value for entry in state for value in entry.values() if value.dim()]
        self.bytes["optimizer"] = held(kept)
        (pl_module.folder / f"held-{ranks.rank()}.json").write_text(json.dumps(self.bytes))
