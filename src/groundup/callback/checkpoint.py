"""Saving a run to `step-N/` directories and bringing it back, bitwise; when to train on is not decided here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import lightning
import torch
from torch import Tensor

from groundup.callback import config
from groundup.callback import tensors as files
from groundup.callback.throughput import paused
from groundup.core import checkpoint
from groundup.core.bits import sought
from groundup.core.config import to_dict
from groundup.core.errors import CheckpointError
from groundup.core.files import atomic_json, read_json
from groundup.core.progress import Progress
from groundup.objective import state
from groundup.objective.base import Objective, Stepping

STATE = "state.json"
CALLBACK = "callback/"


@runtime_checkable
class Remembers(Protocol):
    """A callback with tensors of its own that a checkpoint keeps, under its class's name."""

    def state(self) -> dict[str, Tensor]:
        """Plain tensors."""

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""


class Checkpoint(lightning.Callback):
    """Saves every so many steps and at the end of a segment, and restores before the first step."""

    def __init__(self, options: config.Checkpoint) -> None:
        self.options = options
        self.scores: dict[int, float] = {}
        self.source: Path | None = None
        self.validate_every: int | None = None
        self.segment: Callable[[Progress], str] = str

    def place(self, source: Path | None, validate_every: int | None, segment: Callable[[Progress], str]) -> None:
        """Say where in the run this stands.

        Args:
            source: a verified checkpoint to restore, or None to start from the beginning.
            validate_every: optimizer steps between validations; a checkpoint due at one is saved after it.
            segment: called with the clock, gives the hash of the segments that led to it.
        """
        self.source, self.validate_every, self.segment = source, validate_every, segment

    def on_fit_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Restore nets, optimizer, clock and callbacks from `source`."""
        if self.source is not None:
            self._restore(trainer, cast(Objective, module), self.source)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when the step count says so, unless a validation comes first."""
        del outputs, batch, batch_idx
        steps = cast(Objective, module).progress.steps
        if self._due(steps) and not (self.validate_every and steps % self.validate_every == 0):
            self.save(trainer, cast(Objective, module))

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Note the score, and save if this step is due."""
        objective = cast(Objective, module)
        if trainer.state.fn != "fit":
            return
        self.scores[objective.progress.steps] = sought(objective.validation)
        if self._due(objective.progress.steps):
            self.save(trainer, objective)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Save the end of the segment."""
        objective = cast(Objective, module)
        if not checkpoint.path_of(objective.folder, objective.progress.steps).exists():
            self.save(trainer, objective)

    def _due(self, steps: int) -> bool:
        return self.options.every is not None and steps % self.options.every == 0

    def save(self, trainer: lightning.Trainer, module: Objective) -> Path:
        """Write one checkpoint, whole or not at all; all ranks call this together.

        Raises:
            StorageError: the disk refused; older checkpoints are untouched.
        """
        with paused(trainer):
            return self._save(trainer, module)

    def _save(self, trainer: lightning.Trainer, module: Objective) -> Path:
        step = module.progress.steps
        for logger in trainer.loggers:
            logger.save()  # rows up to this step are on disk before the checkpoint that vouches for them
        if trainer.is_global_zero:
            checkpoint.begin(module.folder, step)
        trainer.strategy.barrier()
        partial = checkpoint.partial_of(module.folder, step)
        tensors = {**state.net_tensors(module.nets), **state.optimizer_tensors(module.nets, _optimizer(trainer))}
        remembered = [callback for callback in cast(Any, trainer).callbacks if isinstance(callback, Remembers)]
        for callback in remembered:
            tensors.update({f"{_own(callback)}{key}": value for key, value in callback.state().items()})
        files.write(tensors, partial, alone=trainer.world_size == 1)
        if trainer.is_global_zero:
            atomic_json(
                partial / STATE,
                {
                    "progress": vars(module.progress),
                    "segments": self.segment(module.progress),
                    "nets": {name: to_dict(config) for name, config in module.net_configs.items()},
                    "scores": {str(key): value for key, value in self.scores.items()},
                },
            )
            checkpoint.commit(module.folder, step)
            checkpoint.prune(module.folder, self.options.keep_latest, self._best(module.folder))
        trainer.strategy.barrier()
        return checkpoint.path_of(module.folder, step)

    def _best(self, folder: Path) -> set[int]:
        kept = {checkpoint.step_of(path) for path in checkpoint.listed(folder)}
        scored = [(score, step) for step, score in self.scores.items() if step in kept]
        return {min(scored)[1]} if self.options.keep_best and scored else set()

    def _restore(self, trainer: lightning.Trainer, module: Objective, folder: Path) -> None:
        values = read_json(folder / STATE)
        progress = Progress(**values["progress"])
        if progress != module.progress:
            raise CheckpointError(str(folder), f"stands at {progress}, not {module.progress}", "start with fresh=true")
        self.scores = {int(key): float(value) for key, value in values["scores"].items()}
        described = files.described(folder)
        shapes = {name: shape for name, (shape, _) in described.items()}
        dtypes = {name: dtype for name, (_, dtype) in described.items()}
        nets = state.net_tensors(module.nets)
        elsewhere = {name: tuple(shape) for name, shape in cast(Stepping, trainer.strategy).elsewhere.items()}
        whole = {name: tuple(tensor.shape) for name, tensor in nets.items()}
        whole.update({f"{state.NETS}{name}": shape for name, shape in elsewhere.items()})
        state.expect(shapes, whole, str(folder))
        optimizer = state.optimizer_room(module.nets, _optimizer(trainer), shapes, dtypes)
        callbacks = {
            name: torch.empty(shapes[name], dtype=dtypes[name])
            for name in shapes
            if name.startswith(CALLBACK) and name.removeprefix(CALLBACK).partition("/")[2] not in elsewhere
        }
        files.read_into({**nets, **optimizer, **callbacks}, folder, alone=trainer.world_size == 1)
        state.set_optimizer(module.nets, _optimizer(trainer), optimizer)
        for callback in cast(Any, trainer).callbacks:
            if isinstance(callback, Remembers):
                own = _own(callback)
                mine = {name.removeprefix(own): value for name, value in callbacks.items() if name.startswith(own)}
                callback.load_state(mine)


def _own(callback: Remembers) -> str:
    return f"{CALLBACK}{type(callback).__name__.lower()}/"


def _optimizer(trainer: lightning.Trainer) -> torch.optim.Optimizer:
    return trainer.optimizers[0]
