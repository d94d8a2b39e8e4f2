"""What each tensor rank reads of a parameter, and how activations move between ranks; of layers it knows nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

WHOLE, ADDENDS, POSITIONS = Replicate(), Partial(), Shard(1)
"""Each rank has all of an activation, or what adds up to it, or a slice of its positions."""


class Adds(Enum):
    """When the gradients that the ranks have of a parameter add up to the whole one; else each has the whole."""

    NEVER = "never"
    SLICED = "sliced"  # while each rank reads a slice of the positions
    ALWAYS = "always"


class Share(NamedTuple):
    """What each rank has and reads of a parameter.

    Attributes:
        cut: dimension, from the last, in which each rank has a part of its own; None: each has all.
        adds: whether gradients are to be summed over ranks.
        read: of what each rank has, the part that it reads: dimension, first, how many. None: all.
        once: the first rank reads it and all others zeros, so that in a sum over ranks it stands once.
    """

    cut: int | None = None
    adds: Adds = Adds.NEVER
    read: tuple[int, int, int] | None = None
    once: bool = False


class Ranks:
    """The ranks over which a net's matrices are cut, and how activations move between them.

    The contract: between trunks and head every activation is whole on each rank, and so is its gradient. Within a
    trunk, the stream is whole too, or with sequence parallelism a slice of the positions (Korthikanti et al. 2022).
    Inside an attention or a feed-forward, each rank computes with all positions and a part of the channels.

    Args:
        mesh: the ranks, in one dimension.
        sequence: the stream is cut, wherever its positions divide by the ranks.

    Attributes:
        sliced: whether in the pass that is under way the stream is cut.
    """

    def __init__(self, mesh: DeviceMesh, sequence: bool) -> None:
        self.mesh, self.sequence, self.sliced = mesh, sequence, False
        self.count, self.number = mesh.size(), mesh.get_local_rank()

    def cuts(self, length: int) -> bool:
        """Whether the stream of so many positions is cut."""
        return self.sequence and length % self.count == 0

    def enter(self, x_BTD: Tensor) -> Tensor:
        """The stream as a layer whose matrices are cut reads it; gradients of ranks add up (f and g of the papers)."""
        return self.moved(x_BTD, POSITIONS if self.sliced else WHOLE, WHOLE, ADDENDS)

    def leave(self, x_BTD: Tensor) -> Tensor:
        """The sum over ranks of what such a layer made, as the stream is."""
        becomes = POSITIONS if self.sliced else WHOLE
        return self.moved(x_BTD, ADDENDS, becomes, becomes)

    def shared(self, x: Tensor) -> Tensor:
        """What all ranks have, read by each for a part of what follows: their gradients are summed."""
        return self.moved(x, WHOLE, WHOLE, ADDENDS)

    def moved(
        self, x: Tensor, was: Placement, becomes: Placement, gradient: Placement, shape: tuple[int, ...] | None = None
    ) -> Tensor:
        """An activation laid out otherwise over the ranks.

        Args:
            x: this rank's.
            was: how it is laid out.
            becomes: how it is to be.
            gradient: how the gradient of the result will come.
            shape: of the whole, where parts are not all of one size.
        """
        stride = None if shape is None else torch.empty(shape, device="meta").stride()
        laid = DTensor.from_local(
            x, self.mesh, [was], run_check=False, shape=None if shape is None else torch.Size(shape), stride=stride
        )
        return laid.redistribute(placements=[becomes]).to_local(grad_placements=[gradient])

    def part(self, size: int) -> tuple[int, int]:
        """Where this rank's part of so many rows begins and how many it has, as DTensor cuts them: the last fewer."""
        most = -(-size // self.count)
        first = min(most * self.number, size)
        return first, min(most, size - first)

    def own(self, parameter: Tensor) -> Tensor:
        """This rank's part of a parameter, by which it has a gradient of its own.

        Raises:
            RuntimeError: it is still sharded in another dimension of the mesh, and so incomplete.
        """
        laid = cast(DTensor, parameter)
        if laid.device_mesh.ndim != 1:
            raise RuntimeError("a parameter is read before fully_shard has gathered it; shard whole blocks, then nets")
        return laid.to_local(grad_placements=laid.placements)

    def read(self, parameter: Tensor, share: Share) -> Any:
        """What this rank computes with in a parameter's place."""
        if not isinstance(parameter, DTensor):  # a part within its own forward pass, asked for something else
            return parameter
        local = self.own(parameter)
        if share.adds is Adds.ALWAYS or (share.adds is Adds.SLICED and self.sliced):
            local = self.shared(local)
        if share.read is not None:
            local = local.narrow(*share.read)
        return local * float(self.number == 0) if share.once else local


class Part(nn.Module):
    """Mixed in before a module's class: in its forward pass its parameters are what this rank reads of them.

    So are those of the modules below it that are no parts themselves. Everywhere else they are DTensors.

    Attributes:
        ranks: set by `spread`, as are the parameters: the module that has each, its name there, and its share.
    """

    ranks: Ranks
    reads: list[tuple[nn.Module, str, Share]]

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """What the module's class computes, by this rank's parameters."""
        with self.reading():
            return super().forward(*arguments, **named)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A context in which the parameters are this rank's."""
        whole: list[Any] = [owner._parameters[name] for owner, name, _ in self.reads]
        try:
            for (owner, name, share), parameter in zip(self.reads, whole, strict=True):
                owner._parameters[name] = self.ranks.read(parameter, share)
            yield
        finally:
            for (owner, name, _), parameter in zip(self.reads, whole, strict=True):
                owner._parameters[name] = parameter
