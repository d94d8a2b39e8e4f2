"""Local SGD with an outer optimizer (DiLoCo): workers that meet every so many steps; what is minimised is not known.

Between steps the nets hold the outer weights, the same on every rank, and a worker's own weights stand aside. So
whatever looks at a run (validation, averages, samples, checkpoints) looks at the outer weights, which change at outer
steps alone.
"""

# no `from __future__ import annotations`, as in the module of the class it extends

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from groundup.strategy.ddp import DDP
from groundup.strategy.trained import trained

MOMENTUM, WEIGHTS, TRAFFIC = "momentum/", "weights/", "bytes"
"""Names of what is kept: of the outer step, of a worker, and the bytes that travelled so far."""


class LocalSGD(DDP):
    """Steps that each worker does alone, and outer steps over all of them.

    A Step is shared out as ever: each worker has an equal part of its samples, and the mean loss it descends is that
    of its own part. After every `every`-th step of the run and after its last one, with w the weights of a worker
    and theta the outer ones (Douillard et al. 2023, DiLoCo, algorithm 1):

        delta = mean over workers of (theta - w)
        m     = momentum * m + delta
        theta = theta - rate * (delta + momentum * m)        (Nesterov)
        w     = theta

    The state of the inner optimizer stays with its worker. Rate 1 and momentum 0 average the weights (Stich 2018).

    Args:
        devices: of the processes on this machine, by local rank.
        timeout_minutes: how long an outer step may wait.
        every: steps between outer steps.
        rate: of the outer step.
        momentum: of the outer step.
        travel: dtype in which differences do; None: that of the weights.
    """

    def __init__(
        self,
        devices: list[torch.device],
        timeout_minutes: float,
        every: int,
        rate: float,
        momentum: float,
        travel: torch.dtype | None,
    ) -> None:
        super().__init__(devices, timeout_minutes, bucket_megabytes=25.0, travel=travel)
        self.every, self.rate, self.momentum = every, rate, momentum
        self._outer: dict[str, nn.Parameter] = {}
        self._aside: dict[str, Tensor] = {}
        self._velocity: dict[str, Tensor] = {}
        self._bytes = torch.zeros((), dtype=torch.int64)

    # Lightning's hooks

    def configure_ddp(self) -> None:
        """Leave the module as it is: gradients stay here."""

    def setup(self, trainer: Trainer) -> None:
        """Begin with the outer weights as they were built, the same on every rank."""
        super().setup(trainer)
        assert self.lightning_module is not None
        if trainer.state.fn == TrainerFn.FITTING:
            named = self.lightning_module.named_parameters()
            self._outer = {name: parameter for name, parameter in named if parameter.requires_grad}
            self._aside = {name: parameter.detach().clone() for name, parameter in self._outer.items()}
            self._velocity = {name: torch.zeros_like(parameter.data) for name, parameter in self._outer.items()}

    def training_step(self, *args: Any, **kwargs: Any) -> None:
        """Do a step on this worker's samples, and an outer step where one is due."""
        del kwargs
        module, step = trained(self.lightning_module), args[0]
        targets = torch.stack([batch.targets() for batch in step.micro_batches]).sum().clamp(min=1)
        with self.precision_plugin.train_step_context(), self._at_work():
            sums = module.gradients(replace(step, targets=targets))
            module.update(step, {name: value / targets for name, value in sums.items()})
        if module.progress.steps % self.every == 0 or module.progress.steps >= module.total.steps:
            travelled, norm = self._outer_step()
            self._bytes += travelled
            total = float(self._bytes)
            module.write({"outer/bytes": float(travelled), "outer/total_bytes": total, "outer/difference": norm})

    def quiet(self) -> AbstractContextManager[None]:
        """Gradients are always added up here alone."""
        return nullcontext()

    # What a checkpoint keeps beside the outer weights

    @property
    def own(self) -> str:
        """Where this worker's optimizer state is kept; other layouts read the first one's."""
        return f"{self._name}/" if self.global_rank else ""

    def state(self) -> dict[str, Tensor]:
        """The outer momentum, the bytes so far, and this worker's own weights, which may stand between outer steps."""
        mine = {f"{self._name}/{WEIGHTS}{name}": weight for name, weight in self._aside.items()}
        return {**{MOMENTUM + name: value for name, value in self._velocity.items()}, TRAFFIC: self._bytes, **mine}

    def room(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """The live tensors of what a checkpoint has of this worker."""
        return {name: tensor for name, tensor in self.state().items() if name in shapes}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """A worker that the checkpoint does not know begins at the outer weights."""
        for name, weight in self._aside.items():
            if f"{self._name}/{WEIGHTS}{name}" not in tensors:
                weight.copy_(self._outer[name].detach())

    # Parts

    @property
    def _name(self) -> str:
        return f"worker-{self.global_rank}"

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """In this block the nets hold this worker's own weights; nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._outer.items():
            parameter.data, self._aside[name] = self._aside[name], parameter.data

    @torch.no_grad()
    def _outer_step(self) -> tuple[int, float]:
        """Move the outer weights, and this worker's to them; the bytes it handed over, and the norm of the mean."""
        outer = [parameter.data for parameter in self._outer.values()]
        own, velocity = list(self._aside.values()), list(self._velocity.values())
        deltas = torch._foreach_sub(outer, own)
        flat = parameters_to_vector(deltas)
        parcel = flat.to(self.travel or flat.dtype)
        distributed.all_reduce(parcel)
        mean = parcel.to(flat.dtype) / self.world_size
        norm = float(torch.linalg.vector_norm(mean))
        vector_to_parameters(mean, deltas)
        torch._foreach_mul_(velocity, self.momentum)
        torch._foreach_add_(velocity, deltas)
        torch._foreach_add_(deltas, velocity, alpha=self.momentum)
        torch._foreach_add_(outer, deltas, alpha=-self.rate)
        torch._foreach_copy_(own, outer)
        return parcel.numel() * parcel.element_size(), norm
