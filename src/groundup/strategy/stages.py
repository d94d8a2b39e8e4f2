"""Which layers a rank of a pipeline holds, and its stages as torch's schedules see them; gradients' sums it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)

from groundup.model.net import Net
from groundup.model.part import Carried, Part, Stretch

SEVERAL = {
    "interleaved": ScheduleInterleaved1F1B,
    "zero_bubble": ScheduleInterleavedZeroBubble,
    "zero_bubble_v": ScheduleZBVZeroBubble,
}
"""Schedules that may give a rank several stages."""


def holders(ranks: int, each: int, folded: bool) -> list[int]:
    """The rank of a pipeline that holds each stage.

    Args:
        ranks: of the pipeline.
        each: stages of a rank.
        folded: the second half goes back the way of the first, so that the first rank holds both ends (Qi et al.
            2024, ZB-V); else every round begins at the first rank again (Narayanan et al. 2021, section 2.2).
    """
    there = list(range(ranks))
    return [rank for turn in range(each) for rank in (reversed(there) if folded and turn % 2 else there)]


def stretches(layers: int, held: Sequence[int], rank: int) -> list[Stretch]:
    """The stretches of a rank, of equally many layers each.

    Args:
        layers: of the network.
        held: the rank that holds each stage.
        rank: this one.
    """
    each, final = layers // len(held), len(held) - 1
    return [
        Stretch(number, range(number * each, (number + 1) * each), number == 0, number == final)
        for number, holder in enumerate(held)
        if holder == rank
    ]


class Wire:
    """A part's link outside of a schedule: one micro-batch after the other, without gradients.

    Args:
        group: ranks of the pipeline.
        held: the rank that holds each stage.
        part: what is linked.
        device: where it stands.
    """

    def __init__(self, group: distributed.ProcessGroup, held: Sequence[int], part: Part, device: torch.device) -> None:
        self.group, self.held, self.part, self.device = group, held, part, device
        self.rank = distributed.get_rank(group)
        self._here: Carried = ()

    def take(self, stretch: Stretch, shapes: Sequence[tuple[int, ...]]) -> Carried:
        """What the stage before leaves, once it is there."""
        holder = self.held[stretch.number - 1]
        if holder == self.rank:
            return self._here
        made = tuple(
            torch.empty(shape, dtype=dtype, device=self.device)
            for shape, dtype in zip(shapes, self.part.dtypes(), strict=False)
        )
        for tensor in made:
            distributed.recv(tensor, group=self.group, group_src=holder)
        return made

    def give(self, stretch: Stretch, carried: Carried) -> None:
        """Send it to the rank of the next stage."""
        holder = self.held[stretch.number + 1]
        if holder == self.rank:
            self._here = carried
            return
        for tensor in carried:
            distributed.send(tensor.detach(), group=self.group, group_dst=holder)


class Slot:
    """A part's link inside of a schedule, which brings what arrives and takes what is left."""

    def __init__(self) -> None:
        self.carried: Carried = ()

    def take(self, stretch: Stretch, shapes: Sequence[tuple[int, ...]]) -> Carried:
        """What arrived."""
        del stretch, shapes
        return self.carried

    def give(self, stretch: Stretch, carried: Carried) -> None:
        """Keep it for the schedule."""
        del stretch
        self.carried = carried


class Stage(nn.Module):
    """A stretch as a schedule calls it, with what arrived: it gives what goes on, or the loss.

    Each call works for the next micro-batch, since schedules go through them in their order. What is computed is all
    of the loss, of which a stage that is not the last needs, and has, only its own part.

    Args:
        net: which was cut, and holds the stretch.
        part: its trunk.
        stretch: this one.
    """

    def __init__(self, net: Net, part: Part, stretch: Stretch) -> None:
        super().__init__()
        self.stretch, self.slot = stretch, Slot()
        self.used = nn.ModuleList(part.modules_of(stretch, net.head))
        self._part = (part,)  # in a tuple, lest its other stretches' parameters count as this one's
        self._losses: Iterator[Callable[[], Tensor]] = iter(())

    def begin(self, losses: Sequence[Callable[[], Tensor]]) -> None:
        """Make ready for a step, given what computes the loss of each micro-batch."""
        self._losses = iter(losses)

    def forward(self, *arrived: Tensor) -> Any:
        """What the stretch leaves, or the loss as a vector of one."""
        (part,) = self._part
        part.turn, part.link = (self.stretch,), self.slot
        self.slot.carried = arrived
        loss = next(self._losses)()
        left, self.slot.carried = self.slot.carried, ()
        return loss.reshape(1) if self.stretch.last else left

    def scheduled(
        self, rows: int, length: int, stages: int, group: distributed.ProcessGroup, device: torch.device
    ) -> PipelineStage:
        """The same for torch's schedules, which then need not find shapes by a trial.

        Args:
            rows: of a micro-batch.
            length: its positions.
            stages: how many there are.
            group: ranks of the pipeline.
            device: where the stage stands.
        """
        (part,) = self._part

        def carried(layer: int) -> tuple[Tensor, ...]:
            shapes = part.shapes(layer, rows, length, bool(part.routed))
            return tuple(
                torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)
                for shape, dtype in zip(shapes, part.dtypes(), strict=False)
            )

        loss = torch.empty(1, dtype=torch.promote_types(part.dtype, torch.float32), device="meta")
        return PipelineStage(
            self,
            self.stretch.number,
            stages,
            device,
            input_args=() if self.stretch.first else carried(self.stretch.layers.start),
            output_args=(loss.requires_grad_(),) if self.stretch.last else carried(self.stretch.layers.stop),
            group=group,
        )


def schedule(kind: str, stages: Sequence[PipelineStage], micro_batches: int) -> Any:
    """torch's schedule of these stages: its `step` works through a step's micro-batches and leaves gradients.

    Args:
        kind: as in the options. 1f1b is for as many micro-batches as there are stages; of fewer, gpipe keeps no more.
        stages: of this rank.
        micro_batches: how many.
    """
    options: dict[str, Any] = {"loss_fn": _loss, "scale_grads": False}
    if kind in SEVERAL:
        return SEVERAL[kind](list(stages), micro_batches, **options)
    filled = kind == "1f1b" and micro_batches >= stages[0].num_stages
    return (Schedule1F1B if filled else ScheduleGPipe)(stages[0], micro_batches, **options)


def _loss(output: Tensor, target: Tensor) -> Tensor:
    """The loss, which the last stage has computed already."""
    del target
    return output.sum()
