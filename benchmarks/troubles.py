"""A plugin of the record of spikes: what goes wrong with large runs, done to a small one on purpose.

What is wrong with data stays with the samples, so a run that passes them over is rid of it, and one that reads them
again is not. What is wrong with the rate is a moment's. What is wrong with the dynamics is there at any rate that is
too high, and at no lower one.
"""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
import torch

from groundup.callback import decisions
from groundup.core.config import option, schema
from groundup.shard.skip import Skips
from groundup.trainer import segments

GROWTH, BEARABLE = 0.02, 0.7
"""By how much logits grow in a step where the rate is above this share of the planned one."""


@schema("callback", "trouble")
class Options:
    """What is done, and to which samples or steps of the run as it was planned."""

    what: str = option("none", "which", choices=("none", "poison", "rate", "gradient", "logits"))
    first: int = option(0, "the first step, or the first of whose samples")
    steps: int = option(1, "so many; of logits: from there on")
    factor: float = option(50.0, "rate: by which it is multiplied")

    def build(self) -> lightning.Callback:
        """The callback."""
        return Trouble(self)


class Trouble(lightning.Callback):
    """Puts noise in the place of tokens, NaN into a layer's gradient; multiplies the rate; lets logits grow.

    Args:
        options: which, and where.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.wrong = False
        self.attempt = 1
        self.planned = 0.0
        self.skips = Skips()

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Reach for the second block, and learn which samples are not served any more."""
        del trainer
        made = decisions.read(pl_module.folder)
        self.attempt = decisions.attempts(made) + 1
        self.planned = segments.read(pl_module.folder)[0]["optimizer"]["rate"]
        self.skips = Skips([decision.skip for decision in made if decision.skip is not None])
        block = pl_module.nets["model"].trunk.blocks["1"]
        weight = next(parameter for parameter in block.parameters() if parameter.ndim == 2)
        if self.options.what == "gradient":
            weight.register_hook(lambda grad: grad * torch.nan if self.wrong else grad)

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Do it, if it is time or if these are the samples."""
        del batch_idx
        (first,) = self.skips.index(np.array([batch.first_sample])).tolist()
        place = first // batch.samples + 1 if self.options.what in ("poison", "gradient") else batch.step + 1
        self.wrong = 0 <= place - self.options.first < self.options.steps
        if self.options.what == "poison" and self.wrong:
            _poison(batch, first)
        elif self.options.what == "rate":
            once = self.options.factor if self.wrong and self.attempt == 1 else 1.0
            for group in trainer.optimizers[0].param_groups:
                group["usual"] = group.get("usual", group["peak"])
                group["peak"] = group["usual"] * once
        elif self.options.what == "logits" and self.wrong and self._rate(trainer) > BEARABLE * self.planned:
            with torch.no_grad():
                pl_module.nets["model"].head.weight.mul_(1 + GROWTH)

    @staticmethod
    def _rate(trainer: lightning.Trainer) -> float:
        """The peak rate in force."""
        return float(trainer.optimizers[0].param_groups[0]["peak"])


def _poison(step: Any, seed: int) -> None:
    """Tokens and targets without sense, the same whenever these samples come: a shard that was damaged unnoticed."""
    for number, batch in enumerate(step.micro_batches):
        noise = torch.Generator().manual_seed(seed * 1000 + number)
        ids = torch.randint(0, 256, batch.tokens_BT.shape, generator=noise)
        batch.targets_BT = torch.where(batch.targets_BT >= 0, ids.roll(-7, 1), batch.targets_BT)
        batch.tokens_BT = ids
