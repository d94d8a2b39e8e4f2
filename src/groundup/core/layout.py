"""Which sample of a step stands in which row of which micro-batch: integers alone, no tensors and no processes."""

from __future__ import annotations

PADDING = -1
"""The offset of a row that holds no sample: it is fully masked."""


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
