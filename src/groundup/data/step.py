"""What a training step consumes: its micro-batches for one rank and the counts to normalise by; where from is unknown.

Shape letters: B rows of a micro-batch, T positions of context, or of the target where there is a source, S of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
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
    """A micro-batch; a network's forward takes what is there under these names.

    Attributes:
        tokens_BT: int64.
        targets_BT: int64, what is predicted at each token, `IGNORED` where nothing is: its successor, or for an encoder
            what stood there.
        documents_BT: int32, the document of each position, rising along a row; None where documents are not told
            apart.
        positions_BT: int64, the position of each token in its document; None with `documents_BT`.
        prefix_BT: bool, whether a token is given and seen by all; None where none is.
        source_BS: int64, what an encoder reads and a decoder then writes `tokens_BT` to; None where there is none.
        source_documents_BS: int32, the document of each position of the source, numbered as `documents_BT`, -1 where
            there is padding.
        source_positions_BS: int64, the position of each of its tokens in its document.
    """

    tokens_BT: torch.Tensor  # noqa: N815
    targets_BT: torch.Tensor  # noqa: N815
    documents_BT: torch.Tensor | None = None  # noqa: N815
    positions_BT: torch.Tensor | None = None  # noqa: N815
    prefix_BT: torch.Tensor | None = None  # noqa: N815
    source_BS: torch.Tensor | None = None  # noqa: N815
    source_documents_BS: torch.Tensor | None = None  # noqa: N815
    source_positions_BS: torch.Tensor | None = None  # noqa: N815

    def __reduce__(self) -> tuple[Callable[..., Batch], tuple[Any, ...]]:
        return _batch, ({name: tensor.numpy() for name, tensor in self.there().items()},)

    def there(self) -> dict[str, torch.Tensor]:
        """The tensors that are not None, by name."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in every.items() if tensor is not None}

    def only(self, places: Callable[[int, torch.device], torch.Tensor]) -> Batch:
        """The same with the targets at some positions alone; see `Step.only`."""
        mine = places(self.targets_BT.shape[1], self.targets_BT.device)
        targets_BT = torch.full_like(self.targets_BT, IGNORED).index_copy(1, mine, self.targets_BT[:, mine])
        return replace(self, targets_BT=targets_BT)

    def targets(self) -> torch.Tensor:
        """How many positions are predicted, a scalar on the batch's device."""
        return (self.targets_BT >= 0).sum()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which a copy to an accelerator does not wait."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        return Batch(**{name: change(tensor) for name, tensor in self.there().items()})


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

    def only(self, places: Callable[[int, torch.device], torch.Tensor]) -> Step:
        """The same with the targets at some positions of each row alone, where other ranks have the others.

        Args:
            places: given how many positions there are and a device, which.
        """
        return replace(self, micro_batches=[batch.only(places) for batch in self.micro_batches])

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


def steps_of(heads: list[Head], micro_numbers: list[int], batches: list[Any], context: int) -> list[Step]:
    """The steps of a parcel: as many micro-batches each, in their order."""
    many = len(micro_numbers)
    return [
        Step(
            step=head.step,
            samples=head.samples,
            tokens=head.samples * context,
            targets=head.targets,
            first_sample=head.first_sample,
            micro_batches=batches[place * many : (place + 1) * many],
            micro_numbers=list(micro_numbers),
        )
        for place, head in enumerate(heads)
    ]


@dataclass(eq=False)
class Parcel:
    """One step or several as the shards hold them, made at once as that is faster for small ones.

    Pickled, it arrives as a list of `Step`: a quarter of the bytes cross between processes, by the pipe, so no shared
    memory can run out. With a view, which takes longer than what crosses, the steps are made where it is pickled.

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
        if self.view is not None:
            return list, (self.unpack(),)
        return _unpack, (self.heads, self.micro_numbers, self.rows, self.filled, self.end)

    def unpack(self) -> list[Step]:
        """The steps, as tensors of this process."""
        many, context = len(self.micro_numbers), self.rows.shape[1] - 1
        wide = self.rows.astype(np.int64)  # once for both: a target is the next position's token
        tokens, targets = wide[:, :-1], wide[:, 1:]
        if self.filled is not None:
            targets = targets.copy()
            targets[np.arange(context) >= self.filled[:, None]] = IGNORED
        parts: list[NDArray[Any]] = [tokens, targets]
        if self.end is not None:
            parts.extend(documents(self.rows[:, :-1], self.end))
        shape = (len(self.heads) * many, -1)
        split = [torch.from_numpy(part).reshape(*shape, context).unbind() for part in parts]
        batches = [Batch(*part) for part in zip(*split, strict=True)]
        if self.view is not None and self.samples is not None:
            numbers = self.samples.reshape(len(batches), -1)
            filled = np.full(numbers.size, context) if self.filled is None else self.filled
            shown = zip(batches, numbers, filled.reshape(numbers.shape), strict=True)
            batches = [self.view.show(*row) for row in shown]
        return steps_of(self.heads, self.micro_numbers, batches, context)


def _batch(arrays: dict[str, NDArray[Any]]) -> Batch:
    return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def _unpack(*fields: Any) -> list[Step]:
    return Parcel(*fields).unpack()
