"""Which sample stands in which row of which micro-batch, and which rank where: integers alone, no processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PADDING = -1
"""The offset of a row that holds no sample: it is fully masked."""


class Place(NamedTuple):
    """Where a rank stands along each way of spreading."""

    pipeline: int
    data: int
    context: int
    tensor: int


@dataclass(frozen=True)
class Grid:
    """How many ranks lie along each way of spreading a run.

    Tensor ranks are neighbours, which talk most and should share a machine; pipeline ranks are farthest apart
    (Narayanan et al. 2021, PTD-P, section 3). Only ranks along `data` read different samples.

    Attributes:
        experts: of the ranks that see different tokens, so many neighbours share out the experts of each layer.
    """

    pipeline: int = 1
    data: int = 1
    context: int = 1
    tensor: int = 1
    experts: int = 1

    @property
    def world(self) -> int:
        """Ranks in all."""
        return self.pipeline * self.data * self.context * self.tensor

    def place(self, rank: int) -> Place:
        """Where a rank stands.

        Raises:
            ValueError: there are not so many ranks.
        """
        if not 0 <= rank < self.world:
            raise ValueError(f"rank {rank} is not in a world of {self.world}")
        rest, tensor = divmod(rank, self.tensor)
        rest, context = divmod(rest, self.context)
        pipeline, data = divmod(rest, self.data)
        return Place(pipeline, data, context, tensor)


def global_micro_batches(samples: int, micro_batch: int) -> int:
    """How many micro-batches of `micro_batch` rows a step of `samples` samples fills, over all ranks."""
    _check(samples=samples, micro_batch=micro_batch)
    return -(-samples // micro_batch)


def micro_numbers(samples: int, world: int, rank: int, micro_batch: int) -> list[int]:
    """The global numbers of this rank's micro-batches: its j-th is number j * world + rank.

    Every rank has equally many, so numbers at and beyond `global_micro_batches` are pure padding.

    Raises:
        ValueError: a negative number of samples, no rows in a micro-batch, or a rank outside the world.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not in a world of {world}")
    each = -(-global_micro_batches(samples, micro_batch) // world)
    return [j * world + rank for j in range(each)]


def rows(samples: int, world: int, rank: int, micro_batch: int) -> list[list[int]]:
    """For each micro-batch of this rank, the offset within the step of the sample in each of its rows.

    Global micro-batch m holds the offsets m * micro_batch onwards, whatever the world, so another number
    of ranks computes the same micro-batches. A row beyond the last sample is `PADDING` (-1).

    Returns:
        Equally many lists on every rank, of `micro_batch` offsets each.

    Raises:
        ValueError: as `micro_numbers`.
    """
    made = []
    for number in micro_numbers(samples, world, rank, micro_batch):
        first = number * micro_batch
        made.append([offset if offset < samples else PADDING for offset in range(first, first + micro_batch)])
    return made


def _check(samples: int, micro_batch: int) -> None:
    if samples < 0 or micro_batch < 1:
        raise ValueError(f"cannot lay out {samples} samples in micro-batches of {micro_batch}")
