"""Saving a run to `step-N/` directories and bringing it back, bitwise; when to train on is not decided here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

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

T = TypeVar("T")
Kinds = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
STATE = "state.json"
CALLBACK = "callback/"
STRATEGY = "strategy/"


@runtime_checkable
class Remembers(Protocol):
    """A callback with tensors of its own that a checkpoint keeps, under its class's name."""

    def state(self) -> dict[str, Tensor]:
        """Plain tensors."""

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""


@runtime_checkable
class Holds(Protocol):
    """A callback that may want to go back."""

    def holds(self, steps: Sequence[int]) -> set[int]:
        """Which of the checkpoints of these steps must stay."""


@runtime_checkable
class Keeps(Protocol):
    """A strategy whose ranks differ, or that has tensors of its own, which a checkpoint keeps under `strategy/`.

    Attributes:
        own: where a rank's optimizer state stands below that, empty for the one that other layouts read.
    """

    own: str

    def state(self) -> dict[str, Tensor]:
        """Plain tensors, of this rank and of all; the latter are written once."""

    def room(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Tensors to fill with those that `state` gave, as far as a checkpoint has them."""

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on from them; nets and optimizer have been read."""


@runtime_checkable
class Gathers(Protocol):
    """A strategy whose ranks hold weights or optimizer state in a form that only it can put together.

    Names are those of `objective.state` behind their prefixes.
    """

    def gathered(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Whole tensors of the nets and of the optimizer, each on one rank or on all."""

    def gathered_room(self, kinds: Kinds) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Tensors to fill with a checkpoint's; `kinds` are those of its optimizer."""

    def scatter(self, nets: dict[str, Tensor], optimizer: dict[str, Tensor], kinds: Kinds) -> None:
        """Go on from them."""


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
        if cast(Objective, module).abandoned:
            return
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
        if not objective.abandoned and not checkpoint.path_of(objective.folder, objective.progress.steps).exists():
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
        keeps, own = _keeps(trainer)
        nets, optimizer = _held(trainer, module)
        tensors = {**nets, **{own + name: value for name, value in optimizer.items()}}
        tensors.update({STRATEGY + name: value for name, value in keeps.state().items()} if keeps else {})
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
            kept = self._best(module.folder) | _held_back(trainer, module.folder)
            checkpoint.prune(module.folder, self.options.keep_latest, kept)
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
        keeps, own = _keeps(trainer)
        if not any(name.startswith(own + state.OPTIMIZER) for name in shapes):
            own = ""
        mine = {name.removeprefix(own): name for name in shapes if name.startswith(own + state.OPTIMIZER)}
        kinds = {name: described[saved] for name, saved in mine.items()}
        nets, optimizer = _room(trainer, module, kinds)
        elsewhere = {name: tuple(shape) for name, shape in cast(Stepping, trainer.strategy).elsewhere.items()}
        whole = {name: tuple(tensor.shape) for name, tensor in nets.items()}
        whole.update({f"{state.NETS}{name}": shape for name, shape in elsewhere.items()})
        state.expect(shapes, whole, str(folder))
        kept = keeps.room(_below(STRATEGY, shapes)) if keeps else {}
        here = {name: shape for name, shape in shapes.items() if name.split("/", 2)[-1] not in elsewhere}
        callbacks = _callback_room(trainer, here, dtypes)
        wanted = {**nets, **{mine[name]: tensor for name, tensor in optimizer.items()}, **callbacks}
        wanted.update({STRATEGY + name: tensor for name, tensor in kept.items()})
        files.read_into(wanted, folder, alone=trainer.world_size == 1)
        _take(trainer, module, nets, optimizer, kinds)
        if keeps:
            keeps.load_state(kept)
        for callback in cast(Any, trainer).callbacks:
            if isinstance(callback, Remembers):
                callback.load_state(_below(_own(callback), callbacks))


def _held_back(trainer: lightning.Trainer, folder: Path) -> set[int]:
    """The checkpoints that other callbacks may want to go back to."""
    steps = [checkpoint.step_of(path) for path in checkpoint.listed(folder)]
    holders = [callback for callback in cast(Any, trainer).callbacks if isinstance(callback, Holds)]
    return {step for holder in holders for step in holder.holds(steps)}


def _held(trainer: lightning.Trainer, module: Objective) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is to be saved of nets and optimizer."""
    if not isinstance(trainer.strategy, Gathers):
        return state.net_tensors(module.nets), state.optimizer_tensors(module.nets, _optimizer(trainer))
    nets, optimizer = trainer.strategy.gathered()
    return _above(state.NETS, nets), _above(state.OPTIMIZER, optimizer)


def _room(trainer: lightning.Trainer, module: Objective, kinds: Kinds) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors to fill with saved ones of nets and optimizer, of which the latter's kinds are given."""
    if not isinstance(trainer.strategy, Gathers):
        shapes = {name: shape for name, (shape, _) in kinds.items()}
        dtypes = {name: dtype for name, (_, dtype) in kinds.items()}
        nets = state.net_tensors(module.nets)
        return nets, state.optimizer_room(module.nets, _optimizer(trainer), shapes, dtypes)
    nets, optimizer = trainer.strategy.gathered_room(_below(state.OPTIMIZER, kinds))
    return _above(state.NETS, nets), _above(state.OPTIMIZER, optimizer)


def _take(
    trainer: lightning.Trainer,
    module: Objective,
    nets: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    kinds: Kinds,
) -> None:
    """Go on from what `_room` gave, now that it is filled."""
    if not isinstance(trainer.strategy, Gathers):  # the nets' own memory was filled
        state.set_optimizer(module.nets, _optimizer(trainer), optimizer)
    else:
        whole, moments = _below(state.NETS, nets), _below(state.OPTIMIZER, optimizer)
        trainer.strategy.scatter(whole, moments, _below(state.OPTIMIZER, kinds))


def _above(prefix: str, found: Mapping[str, T]) -> dict[str, T]:
    """The same under names that begin with a prefix."""
    return {prefix + name: value for name, value in found.items()}


def _below(prefix: str, found: Mapping[str, T]) -> dict[str, T]:
    """What stands under names that begin with a prefix, by the rest of the name."""
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


def _keeps(trainer: lightning.Trainer) -> tuple[Keeps | None, str]:
    """The strategy where it has something to keep, and what this rank's optimizer state is kept under."""
    strategy = trainer.strategy
    if not isinstance(strategy, Keeps):
        return None, ""
    return strategy, f"{STRATEGY}{strategy.own}" if strategy.own else ""


def _callback_room(
    trainer: lightning.Trainer, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, torch.dtype]
) -> dict[str, Tensor]:
    """Empty tensors for what callbacks saved, laid out like what they hold now where that is of the same shape."""
    now: dict[str, Tensor] = {}
    for callback in cast(Any, trainer).callbacks:
        if isinstance(callback, Remembers):
            now.update({f"{_own(callback)}{key}": value for key, value in callback.state().items()})
    room: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if not name.startswith(CALLBACK):
            continue
        alike = now.get(name)
        if alike is not None and tuple(alike.shape) == shape:
            room[name] = torch.empty_like(alike, dtype=dtypes[name])
        else:
            room[name] = torch.empty(shape, dtype=dtypes[name])
    return room


def _own(callback: Remembers) -> str:
    return f"{CALLBACK}{type(callback).__name__.lower()}/"


def _optimizer(trainer: lightning.Trainer) -> torch.optim.Optimizer:
    return trainer.optimizers[0]
