"""A callback that does harm to a run, as an option of callbacks: `plugins=[faults] callback=[default,fault]`."""

from __future__ import annotations

import os
import signal
from typing import Any

import lightning
import torch

from groundup.callback import decisions
from groundup.core import ranks
from groundup.core.config import option, schema


@schema("callback", "fault")
class Options:
    """Harm at some steps of the first attempts."""

    what: str = option("none", "what is done", choices=("none", "rate", "gradient", "activation", "signal"))
    first: int = option(0, "the first step")
    steps: int = option(1, "so many steps")
    factor: float = option(50.0, "by which the rate is multiplied")
    attempts: int = option(1, "in so many attempts")
    rank: int | None = option(None, "on this rank alone")
    die: int | None = option(None, "break off before this step of the second attempt")

    def build(self) -> lightning.Callback:
        """The callback."""
        return Fault(self)


class Killed(BaseException):
    """As if the process had been killed."""


class Fault(lightning.Callback):
    """Multiplies the rate, puts a NaN into a gradient or an activation, or asks the process to stop."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.now = False
        self.attempt = 0

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Reach for the second block."""
        self.attempt = decisions.attempts(decisions.read(pl_module.folder)) + 1
        block = pl_module.nets["model"].trunk.blocks["1"]
        weight = next(parameter for parameter in block.parameters() if parameter.ndim == 2)
        if self.options.what == "gradient":
            weight.register_hook(lambda grad: grad.index_fill(0, torch.tensor([0]), torch.nan) if self.now else grad)
        if self.options.what == "activation":
            block.register_forward_hook(lambda part, given, made: made * torch.nan if self.now else made)

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """See whether it is time."""
        if self.attempt == 2 and batch.step + 1 == self.options.die:
            raise Killed
        at = batch.step + 1 - self.options.first
        here = self.options.rank in (None, ranks.rank())
        self.now = here and 0 <= at < self.options.steps and self.attempt <= self.options.attempts
        if self.options.what == "signal" and self.now:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.options.what == "rate":
            for group in trainer.optimizers[0].param_groups:
                group["usual"] = group.get("usual", group["peak"])
                group["peak"] = group["usual"] * (self.options.factor if self.now else 1)
