"""Layers over processes, micro-batches after each other through all of them; what is minimised it does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import lightning
import torch
from torch import Tensor, distributed, nn

from groundup.core.layout import Grid
from groundup.model.net import Net
from groundup.model.part import Part, cut
from groundup.model.parts import own
from groundup.strategy import stages
from groundup.strategy.mesh import Mesh

T = TypeVar("T")


class Pipeline(Mesh):
    """A stretch of the layers, or several, on each rank (Huang et al. 2019, GPipe), and copies of these over `data`.

    The loss is computed on every rank, as if all targets were certain where later layers are missing, and only the
    rank with the last layers is believed. Gradients of copies are summed behind the schedule.

    Args:
        devices: of the processes on this machine, by local rank.
        grid: how all ranks lie.
        schedule: its kind.
        each: stages of a rank.
        **options: as for `Mesh`.
    """

    def __init__(self, devices: list[torch.device], grid: Grid, *, schedule: str, each: int, **options: Any) -> None:
        super().__init__(devices, grid, **options)
        self.kind, self.each = schedule, each
        self.held = stages.holders(grid.pipeline, each, folded=schedule == "zero_bubble_v")
        self._scheduled: dict[tuple[int, ...], tuple[list[stages.Stage], Any]] = {}

    def setup_environment(self) -> None:
        """Find the other processes, and who talks to whom."""
        super().setup_environment()
        self._ends: distributed.ProcessGroup | None = None
        if self.held[0] != self.held[-1]:
            apart = self.grid.world // self.grid.pipeline  # ranks of a pipeline are so far from each other
            ends = [[rank + self.held[end] * apart for end in (0, -1)] for rank in range(apart)]
            self._ends = cast(Any, distributed).new_subgroups_by_enumeration(ends)[0]

    def setup(self, trainer: lightning.Trainer) -> None:
        """Link what this rank holds to the rest."""
        super().setup(trainer)
        for _, part in self._parts():
            part.link = stages.Wire(self._group("pipeline"), self.held, part, self.root_device)

    def split(self, net: nn.Module) -> None:
        """Leave of a net the stretches of this rank."""
        assert isinstance(net, Net)
        cut(net, stages.stretches(net.config.layers, self.held, self.mesh.get_local_rank("pipeline")))
        super().split(net)

    @property
    def elsewhere(self) -> dict[str, torch.Size]:
        """Shapes of the parameters and buffers that other ranks hold, by their names."""
        return {
            f"{name}.{own}": shape
            for name, net in self._nets().items()
            if isinstance(net.trunk, Part)
            for own, shape in net.trunk.gone.items()
        }

    def forward_backward(self, micro_batches: Sequence[T], loss: Callable[[int, T], Tensor]) -> None:
        """As for every strategy; the schedule says when which stage works for which micro-batch."""
        if not micro_batches:
            raise ValueError("a step has at least one micro-batch on every rank")
        ((net, part),) = self._parts()
        rows, length = cast(Any, micro_batches[0]).tokens_BT.shape
        held, schedule = self._schedule(net, part, len(micro_batches), rows, length)
        losses = [_bound(loss, number, micro_batch) for number, micro_batch in enumerate(micro_batches)]
        for stage in held:
            stage.begin(losses)
        link = part.link
        try:
            schedule.step(target=torch.zeros(len(micro_batches)))
        finally:
            part.turn, part.link = part.stretches, link
        self.computed()
        self._sum_gradients()

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks that hold the last layers, on every rank; the argument stays as it is."""
        mine = tensor.detach().to(self.root_device, copy=True)
        if self.mesh.get_local_rank("pipeline") != self.held[-1]:
            mine.zero_()
        distributed.all_reduce(mine, group=self._group("pipeline"))
        return super().sum_over_ranks(mine).to(tensor.device)

    def gradient_norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The 2-norm of the whole gradient, in which what several stages share counts once."""
        again = {id(parameter) for parameter, _, first in self._shared() if not first}
        squared = super().gradient_norm([one for one in parameters if id(one) not in again]).square()
        distributed.all_reduce(squared, group=self._group("pipeline"))
        return squared.sqrt()

    def _schedule(self, net: Net, part: Part, *shape: int) -> tuple[list[stages.Stage], Any]:
        if shape not in self._scheduled:
            micro_batches, rows, length = shape
            held = [stages.Stage(net, part, stretch) for stretch in part.stretches]
            group, many = self._group("pipeline"), len(self.held)
            made = [stage.scheduled(rows, length, many, group, self.root_device) for stage in held]
            self._scheduled[shape] = held, stages.schedule(self.kind, made, micro_batches)
        return self._scheduled[shape]

    def _sum_gradients(self) -> None:
        """Over the copies, and of what several stages share over these; every rank adds in the same order."""
        having = [parameter for parameter in self._parameters() if parameter.grad is not None]
        for parameter in having:
            assert parameter.grad is not None
            # zero_bubble leaves what autograd.grad gave, of any layout; collectives and optimizers count on the usual.
            parameter.grad = parameter.grad.contiguous()
        self.sum_copies(having)
        for parameter, group, _ in self._shared():
            assert parameter.grad is not None
            distributed.all_reduce(own(parameter.grad), group=group)

    def _shared(self) -> Iterator[tuple[nn.Parameter, distributed.ProcessGroup, bool]]:
        """Parameters of which other stages have copies, with these, and whether this is the first of them."""
        for net, part in self._parts():
            first = any(stretch.first for stretch in part.stretches)
            if net.config.tied and self._ends is not None and hasattr(part, "embedding"):
                yield cast(nn.Parameter, part.embedding.weight), self._ends, first
            if part.buckets is not None:
                yield part.buckets.weight, self._group("pipeline"), first

    def _group(self, name: str) -> distributed.ProcessGroup:
        return self.mesh.get_group(name)

    def _nets(self) -> dict[str, Net]:
        return dict(cast(Any, self.lightning_module).nets.items())

    def _parts(self) -> list[tuple[Net, Part]]:
        every = [(net, getattr(net, "trunk", None)) for net in self._nets().values()]
        return [(net, trunk) for net, trunk in every if isinstance(trunk, Part)]

    def _parameters(self) -> Iterator[nn.Parameter]:
        for net in self._nets().values():
            yield from net.parameters()


def _bound(loss: Callable[[int, T], Tensor], number: int, micro_batch: T) -> Callable[[], Tensor]:
    return lambda: loss(number, micro_batch)
