"""What a checkpoint holds of a run: its tensors, by plain names, and where they go back to; files are not its business.

Nets and optimizer are found by `objective.state`, or by the strategy where only that can put them together; callbacks
and strategies have tensors of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar, cast, runtime_checkable

import lightning
import torch
from torch import Tensor

from groundup.callback.watched import callbacks
from groundup.objective import state
from groundup.objective.base import Objective, Stepping

T = TypeVar("T")
Kinds = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
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


def held(trainer: lightning.Trainer, module: Objective) -> dict[str, Tensor]:
    """All that is to be saved, as it stands; what ranks hold together, all name alike."""
    keeps, own = _keeps(trainer)
    nets, optimizer = _held(trainer, module)
    tensors = {**nets, **_above(own, optimizer)}
    tensors.update(_above(STRATEGY, keeps.state()) if keeps else {})
    for callback in _remembering(trainer):
        tensors.update(_above(_own(callback), callback.state()))
    return tensors


class Room:
    """Tensors to be filled with a checkpoint's, many of them the nets' own memory.

    Args:
        trainer: of the run, whose nets and optimizer are built.
        module: with the nets.
        described: shape and dtype of all that the checkpoint has.
        where: the checkpoint.

    Attributes:
        tensors: by the names the checkpoint has for them.

    Raises:
        CheckpointError: it is another model's.
    """

    def __init__(self, trainer: lightning.Trainer, module: Objective, described: Kinds, where: str) -> None:
        self._trainer, self._module = trainer, module
        shapes = {name: shape for name, (shape, _) in described.items()}
        dtypes = {name: dtype for name, (_, dtype) in described.items()}
        self._keeper, own = _keeps(trainer)
        if not any(name.startswith(own + state.OPTIMIZER) for name in shapes):
            own = ""
        mine = {name.removeprefix(own): name for name in shapes if name.startswith(own + state.OPTIMIZER)}
        self._kinds = {name: described[saved] for name, saved in mine.items()}
        self._nets, self._optimizer = _room(trainer, module, self._kinds)
        elsewhere = {name: tuple(shape) for name, shape in cast(Stepping, trainer.strategy).elsewhere.items()}
        whole = {name: tuple(tensor.shape) for name, tensor in self._nets.items()}
        whole.update({f"{state.NETS}{name}": shape for name, shape in elsewhere.items()})
        state.expect(shapes, whole, where)
        self._kept = self._keeper.room(_below(STRATEGY, shapes)) if self._keeper else {}
        here = {name: shape for name, shape in shapes.items() if name.split("/", 2)[-1] not in elsewhere}
        self._callbacks = _callback_room(trainer, here, dtypes)
        self.tensors = {**self._nets, **{mine[name]: tensor for name, tensor in self._optimizer.items()}}
        self.tensors |= {**self._callbacks, **_above(STRATEGY, self._kept)}

    def take(self) -> None:
        """Go on from them, now that they are filled."""
        _take(self._trainer, self._module, self._nets, self._optimizer, self._kinds)
        if self._keeper:
            self._keeper.load_state(self._kept)
        for callback in _remembering(self._trainer):
            callback.load_state(_below(_own(callback), self._callbacks))


def _remembering(trainer: lightning.Trainer) -> list[Remembers]:
    return [callback for callback in callbacks(trainer) if isinstance(callback, Remembers)]


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
    for callback in _remembering(trainer):
        now.update(_above(_own(callback), callback.state()))
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
