"""Tells a process's watchdog what begins: a step, or something that may take longer; who watches is not known here."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from groundup.callback.watched import watched
from groundup.launcher import heartbeat


class Heartbeat(Callback):
    """Beats at the beginning and the end of each step and around all else; it comes first of the callbacks.

    What others do at the end of a step counts as lying between two steps, so a checkpoint may take its time.
    """

    def __init__(self) -> None:
        self._first = True

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The nets are built next."""
        self._first = True
        heartbeat.phase("the start", watched(pl_module).progress.steps)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A step begins; its samples are there."""
        heartbeat.step(watched(pl_module).progress.steps + 1, first=self._first)
        self._first = False

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """It has ended."""
        done = watched(pl_module).progress.steps
        heartbeat.phase(f"what follows step {done}", done)

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Some held-out text is looked at."""
        heartbeat.phase("a validation", watched(pl_module).progress.steps)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Others ask the model more."""
        heartbeat.phase("what follows a validation", watched(pl_module).progress.steps)
