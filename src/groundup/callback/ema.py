"""An exponential moving average of the weights beside the weights; training never reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from groundup.callback import config
from groundup.callback.watched import callbacks, watched
from groundup.core.errors import CheckpointError
from groundup.model.parts import is_split, own, put

_UPDATES = "updates"


class Ema(Callback):
    """Averages every trainable parameter after each step: `average += (1 - decay) * (weight - average)`.

    With `warmup` the decay after n updates is `min(decay, (1 + n) / (10 + n))`, as TensorFlow's
    ExponentialMovingAverage has it. Averages are kept in fp32; no step waits for the device.
    Validation runs on the averages; `averaged` puts them in place for anything else.
    """

    def __init__(self, options: config.Ema) -> None:
        self.decay = options.decay
        self.warmup = options.warmup
        self.updates = 0
        self._parameters: dict[str, nn.Parameter] = {}
        self._averages: dict[str, Tensor] = {}
        self._aside: dict[str, Tensor] | None = None
        self._loaded: Mapping[str, Tensor] | None = None

    def attach(self, nets: nn.Module) -> None:
        """Begin at the weights as they are, or at those given to `load_state` before."""
        self._parameters = {name: weight for name, weight in nets.named_parameters() if weight.requires_grad}
        self._begin()
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            self.load_state(loaded)

    def state(self) -> dict[str, Tensor]:
        """The averages by parameter name, not copied, and `updates`: all that resuming needs."""
        return {**self._averages, _UPDATES: torch.tensor(self.updates)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; before `attach` it is kept until then.

        An empty state is that of a run that did not average so far: the averages begin at its weights.

        Raises:
            CheckpointError: the averages are of another model.
        """
        if not self._averages:
            self._loaded = dict(state)
            return
        if not state:
            self._begin()
            return
        shapes = {name: tuple(value.shape) for name, value in state.items() if name != _UPDATES}
        if _UPDATES not in state or shapes != {name: tuple(value.shape) for name, value in self._averages.items()}:
            raise CheckpointError(
                "callback.ema", "the averages in the checkpoint are of another model", "leave callback.ema out"
            )
        for name, average in self._averages.items():
            saved = state[name]
            put(average, saved) if is_split(average) and not is_split(saved) else average.copy_(saved)
        self.updates = int(state[_UPDATES])

    def _begin(self) -> None:
        self._averages = {name: weight.detach().float().clone() for name, weight in self._parameters.items()}
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        weight = 1.0 - (min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay)
        current = [own(parameter).detach().float() for parameter in self._parameters.values()]
        torch._foreach_lerp_([own(average) for average in self._averages.values()], current, weight)
        self.updates += 1

    @torch.no_grad()
    def swap_in(self) -> None:
        """Put the averages in the place of the weights, which are set aside."""
        if self._aside is None:
            self._aside = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
            for name, parameter in self._parameters.items():
                parameter.copy_(self._averages[name])

    @torch.no_grad()
    def swap_out(self) -> None:
        """Put the weights back, bit by bit as they were."""
        if self._aside is not None:
            for name, parameter in self._parameters.items():
                parameter.copy_(self._aside[name])
            self._aside = None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to the module's nets, unless that was done before."""
        if not self._averages:
            self.attach(watched(pl_module).nets)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Follow the step."""
        self.update()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the averages."""
        self.swap_in()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the weights."""
        self.swap_out()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Whatever is saved now must be the weights."""
        self.swap_out()


@contextmanager
def averaged(trainer: Trainer) -> Iterator[bool]:
    """In this block the nets hold the averaged weights, if the run averages them; yields whether it does.

    Inside a validation, where they do already, it changes nothing.
    """
    ema = next((callback for callback in callbacks(trainer) if isinstance(callback, Ema)), None)
    if ema is None or ema._aside is not None or not ema._averages:
        yield ema is not None and ema._aside is not None
        return
    ema.swap_in()
    try:
        yield True
    finally:
        ema.swap_out()
