"""The callback that asks, at token counts, whether a trial is worth going on with; what follows is the search's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
from optuna.samplers import RandomSampler
from typing_extensions import override

from groundup.callback.watched import watched
from groundup.core.bits import sought
from groundup.sweep.study import GIVEN_UP, load, trial_of


class Prune(lightning.Callback):
    """Reports held-out bits per byte to the study, and stops the run where its pruner says so.

    Looks are reported under multiples of `every_tokens`, each by the first validation at or after it, so that
    trials with batches of different sizes are compared after as many tokens.

    Args:
        study: the study's folder.
        number: of the trial.
        options: of the pruner.
    """

    def __init__(self, study: str, number: int, options: Any) -> None:
        self.study, self.number, self.options = Path(study), number, options

    @override
    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Report, and ask."""
        module = watched(pl_module)
        look = module.progress.tokens // self.options.every_tokens * self.options.every_tokens
        if trainer.state.fn != "fit" or look == 0 or module.progress.tokens >= module.total.tokens:
            return
        trial = trial_of(load(self.study, RandomSampler(), self.options.build(module.total.tokens)), self.number)
        if look not in trial.study.get_trials(deepcopy=False)[self.number].intermediate_values:
            trial.report(sought(module.validation), look)
        if trial.should_prune():
            trial.set_user_attr(GIVEN_UP, module.progress.tokens)
            trainer.should_stop = True
