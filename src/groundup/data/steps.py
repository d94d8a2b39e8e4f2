"""Steps by their number: of the training stream, and of held-out text; how they are loaded is not known here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from groundup.core.layout import PADDING, micro_numbers, rows
from groundup.core.progress import Progress
from groundup.data.step import Parcel, Step
from groundup.shard.source import Source
from groundup.shard.stream import Stream

Integers = NDArray[np.int64]


class Steps(Dataset[Step]):
    """The optimizer steps of a stretch of training with a constant batch, for one rank: item i is a function of i.

    Args:
        stream: the samples.
        first: where the stretch starts; item 0 is step `first.steps` and starts at sample `first.samples`.
        steps: how many.
        samples: samples per step, over all ranks.
        micro_batch: rows per micro-batch.
        rank, world: which of how many.
        document_mask: whether batches tell documents apart.

    Attributes:
        tokens: tokens of context in an item, padding included.
    """

    def __init__(
        self,
        stream: Stream,
        first: Progress,
        steps: int,
        samples: int,
        micro_batch: int,
        rank: int,
        world: int,
        document_mask: bool,
    ) -> None:
        self.stream, self.first, self.samples = stream, first, samples
        self._alone = world == 1
        self._steps, self._end = steps, stream.end if document_mask else None
        self._numbers = micro_numbers(samples, world, rank, micro_batch)
        self._offsets = np.array(rows(samples, world, rank, micro_batch), dtype=np.int64).reshape(-1)
        self.tokens = self._offsets.size * stream.context
        self._real = np.flatnonzero(self._offsets != PADDING)
        filled = np.where(self._offsets == PADDING, 0, stream.context)
        self._filled = None if self._real.size == filled.size else filled

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> Step:
        return self.parcel(index).unpack()

    def parcel(self, index: int) -> Parcel:
        """Step `index` of the stretch, not yet made into tensors.

        Raises:
            IndexError: the stretch is shorter.
            DataError: a shard that is missing or damaged.
        """
        if not 0 <= index < self._steps:
            raise IndexError(index)
        first = self.first.samples + index * self.samples
        if self._filled is None:
            # Alone, a rank's rows are the step's samples in order.
            tokens = self.stream.run(first, self.samples) if self._alone else self.stream.tokens(first + self._offsets)
        else:
            tokens = np.zeros((self._offsets.size, self.stream.context + 1), dtype=self.stream.dtype)
            tokens[self._real] = self.stream.tokens(first + self._offsets[self._real])
        return Parcel(
            step=self.first.steps + index,
            samples=self.samples,
            targets=self.samples * self.stream.context,
            first_sample=first,
            micro_numbers=self._numbers,
            rows=tokens,
            filled=self._filled,
            end=self._end,
        )


class HeldOut(Dataset[Step]):
    """The windows of a held-out source in the order of its text, each once over all ranks, one micro-batch an item.

    Every token but the first is a target once. The last window may be short: its missing targets are masked, and so
    are the rows that a last micro-batch lacks, so all items have one shape.

    Args:
        source: the text.
        context: positions of a window.
        micro_batch: rows per micro-batch.
        rank, world: which of how many.
        end: the id that opens documents, None where they are not told apart.
        limit_tokens: None or 0 takes all windows, else evenly spread ones of at most so many tokens, at least one.
    """

    def __init__(
        self,
        source: Source,
        context: int,
        micro_batch: int,
        rank: int,
        world: int,
        end: int | None,
        limit_tokens: int | None = None,
    ) -> None:
        self.source, self.name = source, source.name
        self.tokens = micro_batch * context
        every = -(-(source.tokens - 1) // context)
        kept = min(every, max(1, limit_tokens // context)) if limit_tokens else every
        self.windows: Integers = np.arange(kept, dtype=np.int64) * every // kept
        self._context, self._micro_batch, self._rank, self._world, self._end = context, micro_batch, rank, world, end

    def __len__(self) -> int:
        return -(-self.windows.size // (self._micro_batch * self._world))

    def __getitem__(self, index: int) -> Step:
        return self.parcel(index).unpack()

    def parcel(self, index: int) -> Parcel:
        """Item `index`, not yet made into tensors.

        Raises:
            IndexError: there are fewer.
            DataError: a shard that is missing or damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = index * self._micro_batch * self._world
        windows = self.windows[first : first + self._micro_batch * self._world]
        filled = np.minimum(self._context, self.source.tokens - 1 - windows * self._context)
        offsets = np.array(rows(windows.size, self._world, self._rank, self._micro_batch), dtype=np.int64).reshape(-1)
        own = np.where(offsets == PADDING, 0, filled[offsets])
        return Parcel(
            step=index,
            samples=windows.size,
            targets=int(filled.sum()),
            first_sample=first,
            micro_numbers=micro_numbers(windows.size, self._world, self._rank, self._micro_batch),
            rows=self._tokens(windows[offsets], own),
            filled=None if bool((own == self._context).all()) else own,
            end=self._end,
        )

    def _tokens(self, windows: Integers, filled: Integers) -> NDArray[np.unsignedinteger]:
        made = np.zeros((windows.size, self._context + 1), dtype=self.source.dtype)
        whole = np.flatnonzero(filled == self._context)
        made[whole] = self.source.windows(windows[whole], self._context)
        for row in np.flatnonzero((filled > 0) & (filled < self._context)).tolist():
            length = int(filled[row]) + 1
            made[row, :length] = self.source.gather(windows[row : row + 1] * self._context, length)[0]
        return made
