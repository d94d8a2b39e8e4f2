"""Steps of labelled examples by their number: which examples, laid out how; how they are loaded is not known here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from groundup.core.keyed import derive
from groundup.core.layout import PADDING, micro_numbers, rows
from groundup.core.progress import Progress
from groundup.data.examples import Examples
from groundup.data.layout import Layout
from groundup.data.step import Head, Step, steps_of
from groundup.shard.order import permutation
from groundup.shard.skip import Skips

Integers = NDArray[np.int64]


@dataclass(eq=False)
class Labelled:
    """A micro-batch of examples, one a row.

    Attributes:
        tokens_BT: int64, the row as `groundup.data.layout` has it.
        documents_BT: int32, 0 for an example's tokens and -1 for padding, which is a document of its own.
        segments_BT: int64, 0 for the first text and 1 for the second.
        last_B: int64, the position of the last token.
        text_B2: int64, the first position of the text and the one behind it.
        answers_B: int64 class, fp32 score, or for a span (B, 2) int64 its first and last position, 0 where there is
            none in the row.
        examples_B: int64, the number of the example, -1 for a row that holds none.
        right_BA: uint8, of spans that are held out the answers that count, each closed by a zero byte.
    """

    tokens_BT: torch.Tensor  # noqa: N815
    documents_BT: torch.Tensor  # noqa: N815
    segments_BT: torch.Tensor  # noqa: N815
    last_B: torch.Tensor  # noqa: N815
    text_B2: torch.Tensor  # noqa: N815
    answers_B: torch.Tensor  # noqa: N815
    examples_B: torch.Tensor  # noqa: N815
    right_BA: torch.Tensor | None = None  # noqa: N815

    def targets(self) -> torch.Tensor:
        """How many examples there are, a scalar on the batch's device."""
        return (self.examples_B >= 0).sum()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Labelled:
        """The same on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Labelled:
        """The same in page-locked memory, from which a copy to an accelerator does not wait."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Labelled:
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return Labelled(**{name: change(tensor) for name, tensor in every.items() if tensor is not None})


@dataclass(eq=False)
class Laid:
    """Examples laid out in rows; pickled as arrays of the shards' type, a fraction of a micro-batch's bytes.

    Attributes:
        tokens: (n, T).
        lengths, seconds: (n,), see `groundup.data.layout.Place`.
        texts: (n, 2), first position of the text and the one behind it.
        answers: (n,) or (n, 2).
        numbers: (n,), of the examples, `PADDING` where there is none.
        right: (n, A) uint8, or None.
    """

    tokens: NDArray[Any]
    lengths: Integers
    seconds: Integers
    texts: Integers
    answers: NDArray[Any]
    numbers: Integers
    right: NDArray[np.uint8] | None = None

    def batch(self, some: slice = slice(None)) -> Labelled:
        """Some of the rows as tensors."""
        positions = np.arange(self.tokens.shape[1])
        there, second = positions < self.lengths[some, None], positions >= self.seconds[some, None]
        answers = self.answers[some]
        kind = np.float32 if answers.dtype.kind == "f" else np.int64
        arrays = (
            self.tokens[some].astype(np.int64),
            np.where(there, 0, -1).astype(np.int32),
            (there & second).astype(np.int64),
            np.maximum(self.lengths[some] - 1, 0),
            self.texts[some],
            answers.astype(kind),
            self.numbers[some],
            *(() if self.right is None else (self.right[some],)),
        )
        return Labelled(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


@dataclass(eq=False)
class Parcel:
    """One step or several, not yet made into tensors; pickled, it arrives as a list of `Step`.

    Attributes:
        heads: the numbers of each step.
        micro_numbers: of each of them.
        laid: the rows of all micro-batches of all steps.
    """

    heads: list[Head]
    micro_numbers: list[int]
    laid: Laid

    def __reduce__(self) -> tuple[Callable[..., list[Step]], tuple[Any, ...]]:
        return _unpack, (self.heads, self.micro_numbers, self.laid)

    def unpack(self) -> list[Step]:
        """The steps, as tensors of this process."""
        many, context = len(self.micro_numbers), self.laid.tokens.shape[1]
        each = len(self.laid.tokens) // (len(self.heads) * many)
        batches: list[Any] = [
            self.laid.batch(slice(first, first + each)) for first in range(0, len(self.laid.tokens), each)
        ]
        return steps_of(self.heads, self.micro_numbers, batches, context)


def _unpack(*made: Any) -> list[Step]:
    return Parcel(*made).unpack()


def lay(examples: Examples, layout: Layout, numbers: Integers, right: bool = False) -> Laid:
    """Examples in rows.

    Args:
        examples: where they are.
        layout: of a row.
        numbers: of the examples, (n,); `PADDING` gives a row of padding.
        right: also the answers that count, for what is measured on spans.
    """
    many, wide = len(numbers), examples.widest if right else 0
    answers = examples.answers(np.maximum(numbers, 0))
    laid = Laid(
        tokens=np.full((many, layout.context), layout.end, dtype=examples.dtype),
        lengths=np.zeros(many, np.int64),
        seconds=np.full(many, layout.context, np.int64),
        texts=np.zeros((many, 2), np.int64),
        answers=np.where(numbers.reshape(-1, *[1] * (answers.ndim - 1)) == PADDING, 0, answers),
        numbers=np.asarray(numbers, dtype=np.int64),
        right=np.zeros((many, wide), np.uint8) if right and examples.task == "span" else None,
    )
    for row in np.flatnonzero(numbers != PADDING).tolist():
        place = layout.fill(laid.tokens[row], *examples.texts(int(numbers[row])))
        laid.lengths[row], laid.seconds[row] = place.length, place.second
        laid.texts[row] = place.first_of_text, place.behind_text
        if examples.task == "span":
            first, last = answers[row] + place.first_of_text
            inside = answers[row][0] >= 0 and last < place.behind_text
            laid.answers[row] = (first, last) if inside else (0, 0)
        if laid.right is not None:
            known = np.frombuffer(examples.right(int(numbers[row])), np.uint8)
            laid.right[row, : len(known)] = known
    return laid


class Steps(Dataset[Step]):
    """The optimizer steps of a stretch of training, for one rank: item i is a function of i.

    Each epoch is every example once, in an order of its own (a keyed permutation without a table).

    Args:
        examples: what is trained on.
        layout: of a row.
        seed: names the orders.
        first: where the stretch starts; item 0 is step `first.steps` and starts at sample `first.samples`.
        steps: how many.
        samples: examples per step, over all ranks.
        micro_batch: rows per micro-batch.
        rank, world: which of how many.
        skips: ranges of samples that are never served.
        repeat: serve the first so many samples over and over.

    Attributes:
        tokens: positions in an item.
    """

    def __init__(
        self,
        examples: Examples,
        layout: Layout,
        seed: int,
        first: Progress,
        steps: int,
        samples: int,
        micro_batch: int,
        rank: int = 0,
        world: int = 1,
        skips: Sequence[Sequence[int]] = (),
        repeat: int | None = None,
    ) -> None:
        self.examples, self.layout, self.seed, self.first, self.samples = examples, layout, seed, first, samples
        self._steps, self._skips, self._repeat = steps, Skips(skips), repeat
        self._numbers = micro_numbers(samples, world, rank, micro_batch)
        self._offsets = np.array(rows(samples, world, rank, micro_batch), dtype=np.int64).reshape(-1)
        self.tokens = self._offsets.size * layout.context

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> Step:
        return self.parcel(index).unpack()[0]

    def parcel(self, index: int, many: int = 1) -> Parcel:
        """Steps `index` onwards of the stretch, fewer than `many` where it ends.

        Raises:
            IndexError: it is shorter.
            DataError: a shard that is missing or damaged.
        """
        if not 0 <= index < self._steps:
            raise IndexError(index)
        firsts = self.first.samples + np.arange(index, min(index + many, self._steps)) * self.samples
        wanted = (firsts[:, None] + self._offsets).reshape(-1)
        padding = np.tile(self._offsets == PADDING, len(firsts))
        numbers = np.where(padding, PADDING, self.numbers(np.where(padding, 0, wanted)))
        heads = [
            Head(self.first.steps + number, self.samples, self.samples, int(sample))
            for number, sample in enumerate(firsts, index)
        ]
        return Parcel(heads, self._numbers, lay(self.examples, self.layout, numbers))

    def numbers(self, samples: Integers) -> Integers:
        """The example that each sample of the run is."""
        if self._repeat is not None:
            samples = samples % self._repeat
        epochs, rest = np.divmod(self._skips.index(samples), self.examples.size)
        found = np.empty_like(rest)
        for epoch in np.unique(epochs).tolist():
            some = epochs == epoch
            found[some] = permutation(rest[some], self.examples.size, derive(self.seed, "order", "examples", epoch))
        return found


class HeldOut(Dataset[Step]):
    """The held-out examples in their order, each once over all ranks, one micro-batch an item, of one shape.

    Arguments as for `Steps`.
    """

    name = "examples"

    def __init__(self, examples: Examples, layout: Layout, micro_batch: int, rank: int = 0, world: int = 1) -> None:
        self.examples, self.layout = examples, layout
        self.tokens = micro_batch * layout.context
        self._micro_batch, self._rank, self._world = micro_batch, rank, world

    def __len__(self) -> int:
        return -(-self.examples.size // (self._micro_batch * self._world))

    def __getitem__(self, index: int) -> Step:
        return self.parcel(index).unpack()[0]

    def parcel(self, index: int, many: int = 1) -> Parcel:
        """Items `index` onwards; arguments and errors as for `Steps`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        each, heads, numbers = self._micro_batch * self._world, [], []
        for number in range(index, min(index + many, len(self))):
            first = number * each
            count = min(each, self.examples.size - first)
            heads.append(Head(number, count, count, first))
            offsets = np.array(rows(count, self._world, self._rank, self._micro_batch)[0], dtype=np.int64)
            numbers.append(np.where(offsets == PADDING, PADDING, first + offsets))
        return Parcel(heads, [self._rank], lay(self.examples, self.layout, np.concatenate(numbers), right=True))
