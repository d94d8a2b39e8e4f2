"""What a training step consumes: its micro-batches for one rank and the counts to normalise by; where from is unknown.

Shape letters: B rows of a micro-batch, T positions of context.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from groundup.data.view import View
from groundup.shard.documents import documents

IGNORED = -100
"""The target of a position that is not predicted."""


@dataclass(eq=False)
class Batch:
    """A micro-batch of next-token prediction.

    Attributes:
        tokens_BT: int64.
        targets_BT: int64, the successor of each token, `IGNORED` where none is predicted.
        documents_BT: int32, the document of each position, rising along a row; None where documents are not told
            apart.
        positions_BT: int64, the position of each token in its document; None with `documents_BT`.
        prefix_BT: bool, whether a token is given and seen by all; None where none is.
    """

    tokens_BT: torch.Tensor  # noqa: N815
    targets_BT: torch.Tensor  # noqa: N815
    documents_BT: torch.Tensor | None = None  # noqa: N815
    positions_BT: torch.Tensor | None = None  # noqa: N815
    prefix_BT: torch.Tensor | None = None  # noqa: N815

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which a copy to an accelerator does not wait."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        there = (self.tokens_BT, self.targets_BT, self.documents_BT, self.positions_BT, self.prefix_BT)
        return Batch(*(None if tensor is None else change(tensor) for tensor in there))  # type: ignore[arg-type]


@dataclass(eq=False)
class Step:
    """One optimizer step for one rank.

    Attributes:
        step: its number, 0 for the first of a run.
        samples: samples in the step, over all ranks.
        tokens: tokens of context in them.
        targets: predicted positions in them, over all ranks; what a loss that was summed is divided by.
        first_sample: the number of its first sample in the stream.
        micro_batches: this rank's; every rank has equally many, of equal shape.
        micro_numbers: the number of each micro-batch over all ranks, the same for the same samples in any world.
    """

    step: int
    samples: int
    tokens: int
    targets: int
    first_sample: int
    micro_batches: list[Batch]
    micro_numbers: list[int]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Step:
        """The same on a device."""
        return replace(self, micro_batches=[batch.to(device, non_blocking) for batch in self.micro_batches])

    def pin_memory(self) -> Step:
        """The same in page-locked memory."""
        return replace(self, micro_batches=[batch.pin_memory() for batch in self.micro_batches])


class Head(NamedTuple):
    """The numbers of a step, as in `Step`."""

    step: int
    samples: int
    targets: int
    first_sample: int


@dataclass(eq=False)
class Parcel:
    """One step or several as the shards hold them, made at once as that is faster for small ones.

    Pickled, it arrives as a list of `Step`: a quarter of the bytes cross between processes, by the pipe, so no shared
    memory can run out.

    Attributes:
        heads: the steps.
        micro_numbers: of each of them.
        rows: (steps * micro-batches * B, T + 1) tokens of the shards' type.
        filled: targets that are predicted in each row, from its start; None where that is all of them.
        end: the id that opens documents, None where they are not told apart.
        samples: the number of each row, for the view; None where there is none.
        view: what the objective shows of them.
    """

    heads: list[Head]
    micro_numbers: list[int]
    rows: NDArray[Any]
    filled: NDArray[np.int64] | None
    end: int | None
    samples: NDArray[np.int64] | None = None
    view: View | None = None

    def __reduce__(self) -> tuple[Callable[..., list[Step]], tuple[Any, ...]]:
        return _unpack, (self.heads, self.micro_numbers, self.rows, self.filled, self.end, self.samples, self.view)

    def unpack(self) -> list[Step]:
        """The steps, as tensors of this process."""
        many, context = len(self.micro_numbers), self.rows.shape[1] - 1
        tokens, targets = self.rows[:, :-1].astype(np.int64), self.rows[:, 1:].astype(np.int64)
        if self.filled is not None:
            targets[np.arange(context) >= self.filled[:, None]] = IGNORED
        parts: list[NDArray[Any]] = [tokens, targets]
        if self.end is not None:
            parts.extend(documents(self.rows[:, :-1], self.end))
        shape = (len(self.heads) * many, -1, context)
        split = [torch.from_numpy(part).view(shape).unbind() for part in parts]
        batches = [Batch(*part) for part in zip(*split, strict=True)]
        if self.view is not None and self.samples is not None:
            numbers = self.samples.reshape(len(batches), -1)
            filled = np.full(numbers.size, context) if self.filled is None else self.filled
            shown = zip(batches, numbers, filled.reshape(numbers.shape), strict=True)
            batches = [self.view.show(*row) for row in shown]
        return [
            Step(
                step=head.step,
                samples=head.samples,
                tokens=head.samples * context,
                targets=head.targets,
                first_sample=head.first_sample,
                micro_batches=batches[place * many : (place + 1) * many],
                micro_numbers=list(self.micro_numbers),
            )
            for place, head in enumerate(self.heads)
        ]


def _unpack(*fields: Any) -> list[Step]:
    return Parcel(*fields).unpack()
