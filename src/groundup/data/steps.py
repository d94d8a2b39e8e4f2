"""Steps by their number: of the training stream, and of held-out text; how they are loaded is not known here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from groundup.core.keyed import derive
from groundup.core.layout import PADDING, micro_numbers, rows
from groundup.core.progress import Progress
from groundup.data.step import Head, Parcel, Step
from groundup.data.view import View
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
        view: what the objective shows of the samples; None: each token's successor is predicted.

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
        view: View | None = None,
    ) -> None:
        self.stream, self.first, self.samples, self.view = stream, first, samples, view
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
        return self.parcel(index).unpack()[0]

    def parcel(self, index: int, many: int = 1) -> Parcel:
        """Steps `index` onwards of the stretch, not yet made into tensors.

        Args:
            index: of the first.
            many: how many; fewer where the stretch ends.

        Raises:
            IndexError: the stretch is shorter.
            DataError: a shard that is missing or damaged.
        """
        many = _within(index, many, self._steps)
        first = self.first.samples + index * self.samples
        starts = first + np.arange(many, dtype=np.int64)[:, None] * self.samples
        if self._alone and self._filled is None:
            # A single rank's rows are the samples in their order.
            tokens = self.stream.run(first, many * self.samples)
        else:
            real = self.stream.tokens((starts + self._offsets[self._real]).reshape(-1))
            tokens = np.zeros((many * self._offsets.size, self.stream.context + 1), dtype=self.stream.dtype)
            tokens[(np.arange(many)[:, None] * self._offsets.size + self._real).reshape(-1)] = real
        targets = [self.samples * self.stream.context] * many if self.view is None else self._targets(first, many)
        return Parcel(
            heads=[
                Head(self.first.steps + number, self.samples, predicted, self.first.samples + number * self.samples)
                for number, predicted in enumerate(targets, index)
            ],
            micro_numbers=self._numbers,
            rows=tokens,
            filled=None if self._filled is None else np.tile(self._filled, many),
            end=self._end,
            samples=None if self.view is None else (starts + np.maximum(self._offsets, 0)).reshape(-1),
            view=self.view,
        )

    def _targets(self, first: int, many: int) -> list[int]:
        """Predicted positions of steps over all ranks, by the number of their first sample."""
        assert self.view is not None
        samples = np.arange(first, first + many * self.samples, dtype=np.int64)
        counts = self.view.targets(samples, np.full_like(samples, self.stream.context))
        found: list[int] = counts.reshape(many, -1).sum(axis=1).tolist()
        return found


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
        view: what the objective shows of the windows; None: each token's successor is predicted.
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
        view: View | None = None,
    ) -> None:
        self.source, self.name, self.view = source, source.name, view
        self._numbered = derive(0, "held out", source.name) >> 2  # windows have other numbers than samples of training
        self.tokens = micro_batch * context
        every = -(-(source.tokens - 1) // context)
        kept = min(every, max(1, limit_tokens // context)) if limit_tokens else every
        self.windows: Integers = np.arange(kept, dtype=np.int64) * every // kept
        self._context, self._micro_batch, self._rank, self._world, self._end = context, micro_batch, rank, world, end

    def __len__(self) -> int:
        return -(-self.windows.size // (self._micro_batch * self._world))

    def __getitem__(self, index: int) -> Step:
        return self.parcel(index).unpack()[0]

    def parcel(self, index: int, many: int = 1) -> Parcel:
        """Items `index` onwards, not yet made into tensors; arguments and errors as for `Steps`."""
        many, each = _within(index, many, len(self)), self._micro_batch * self._world
        heads: list[Head] = []
        shown: list[Integers] = []
        filled: list[Integers] = []
        for number in range(index, index + many):
            windows = self.windows[number * each : (number + 1) * each]
            lengths = np.minimum(self._context, self.source.tokens - 1 - windows * self._context)
            offsets = np.array(rows(windows.size, self._world, self._rank, self._micro_batch)[0], dtype=np.int64)
            targets = lengths if self.view is None else self.view.targets(self._numbered + windows, lengths)
            heads.append(Head(number, windows.size, int(targets.sum()), number * each))
            shown.append(windows[offsets])
            filled.append(np.where(offsets == PADDING, 0, lengths[offsets]))
        every, places = np.concatenate(filled), np.concatenate(shown)
        return Parcel(
            heads=heads,
            micro_numbers=[self._rank],
            rows=self._tokens(places, every),
            filled=None if bool((every == self._context).all()) else every,
            end=self._end,
            samples=None if self.view is None else self._numbered + places,
            view=self.view,
        )

    def _tokens(self, windows: Integers, filled: Integers) -> NDArray[np.unsignedinteger]:
        made = np.zeros((windows.size, self._context + 1), dtype=self.source.dtype)
        whole = np.flatnonzero(filled == self._context)
        made[whole] = self.source.windows(windows[whole], self._context)
        for row in np.flatnonzero((filled > 0) & (filled < self._context)).tolist():
            length = int(filled[row]) + 1
            made[row, :length] = self.source.gather(windows[row : row + 1] * self._context, length)[0]
        return made


def _within(index: int, many: int, length: int) -> int:
    if not 0 <= index < length:
        raise IndexError(index)
    return min(many, length - index)
