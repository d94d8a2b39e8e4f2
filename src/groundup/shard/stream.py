"""The order of the data as a pure function of the sample number; batches, ranks and workers are unknown to it.

consumed -> index (skipped ranges are passed over) -> source and ordinal (mixture) -> epoch and window (keyed shuffle).
A source in several sampled sets gives one epoch of each in turn, so that no text comes again before all of it has come.
So one integer is all the state there is, and any stretch can be computed by anyone, in any order.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import ConfigError
from groundup.core.keyed import derive
from groundup.shard.documents import documents
from groundup.shard.eras import Eras
from groundup.shard.manifest import sets_of
from groundup.shard.mixture import Mixture
from groundup.shard.order import GROUP, grouped, permutation
from groundup.shard.skip import Skips
from groundup.shard.source import Document, Source

Integers = NDArray[np.int64]
Tokens = NDArray[Any]

_BLOCK = 4096
_BLOCKS_KEPT = 4
_SHARDS = 1 << 32


class Place(NamedTuple):
    """Where samples stand: the number of their source, its epoch, and the window's number there; arrays alike.

    Each sampled set counts as a source of its own here.
    """

    source: Integers
    epoch: Integers
    window: Integers


@dataclass(frozen=True)
class Explanation:
    """What a sample is made of.

    Attributes:
        sample: its number in the stream.
        index: its place in the order, which counts skipped samples too; what `skips` ranges over.
        source: the source's name, of a sampled one with the set's number.
        epoch: how often the source had been read through before.
        window: the window's number in the source.
        first: the offset of its first token in the source.
        documents: the documents its tokens lie in, with where they came from.
    """

    sample: int
    index: int
    source: str
    epoch: int
    window: int
    first: int
    documents: list[Document]


class Stream:
    """Samples 0, 1, 2, ... without end: windows of context + 1 tokens of several sources, mixed and shuffled.

    Each epoch of each source is every window of it once, in an order of its own. Of a source in sampled sets it is
    every window of one of them, and the next epoch is the next set's.

    Args:
        sources: in the order the mixture numbers them; sampled sets of one stand behind each other and count once.
        mixture: how much of each.
        seed: names the order.
        context: tokens of a window that are fed to a model; each comes with its successor.
        end: the token that opens documents.
        skips: what is never served.
        shuffle_tokens: None shuffles each source as a whole; else only so many neighbouring tokens, in 8 pieces from
            anywhere in the source, are shuffled together, so that few shards are in use at a time.
        repeat_samples: None goes on without end; else sample s is sample s modulo this.

    Raises:
        ConfigError: a source shorter than one window.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        mixture: Mixture | Eras,
        seed: int,
        context: int,
        end: int,
        skips: Skips | None = None,
        shuffle_tokens: int | None = None,
        repeat_samples: int | None = None,
    ) -> None:
        self._sets = {name: len(names) for name, names in sets_of(source.name for source in sources).items()}
        if len(self._sets) != mixture.sources:
            raise ValueError(f"{len(self._sets)} sources cannot be mixed by {mixture.sources} shares")
        self.sources, self.mixture, self.skips = list(sources), mixture, skips or Skips()
        self.seed, self.context, self.end, self.repeat_samples = seed, context, end, repeat_samples
        self.dtype = sources[0].dtype
        self._sizes = np.array([source.count(context) for source in sources], dtype=np.int64)
        self._ends = np.cumsum(self._sizes)
        lasts = np.cumsum(list(self._sets.values()))
        self._cycles = np.diff(self._ends[lasts - 1], prepend=0)  # windows of all sets of a source
        self._piece = max(1, shuffle_tokens // (GROUP * context)) if shuffle_tokens is not None else None
        self._blocks: OrderedDict[int, tuple[list[int], list[int]]] = OrderedDict()
        self._mapped: dict[int, memoryview] = {}
        owners = np.searchsorted(lasts, np.arange(len(sources)), side="right")
        drawn = [source for k, source in zip(owners, sources, strict=True) if any(s[k] for _, s in mixture.knots)]
        short = min(drawn, key=len)
        if short.count(context) == 0:
            what = f"is more than the {short.tokens} tokens of {short.split} source {short.name} allow"
            remedy = f"set context at most {max(1, short.tokens - 1)}, prepare more text, or give it weight 0"
            raise ConfigError(f"context={context}", what, remedy)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_blocks": OrderedDict(), "_mapped": {}}

    def locate(self, samples: Integers) -> Place:
        """Where each sample stands, from its number alone.

        Args:
            samples: (n,), at least 0.
        """
        samples = np.asarray(samples, dtype=np.int64)
        if self.repeat_samples is not None:
            samples = samples % self.repeat_samples
        drawn, ordinal = self.mixture.locate(self.skips.index(samples))
        epoch, rest = np.divmod(ordinal, self._cycles[drawn])
        rest += (np.cumsum(self._cycles) - self._cycles)[drawn]
        source = np.searchsorted(self._ends, rest, side="right")
        rest -= (self._ends - self._sizes)[source]
        window = np.empty_like(rest)
        for number in np.flatnonzero(np.bincount(source)).tolist():
            rows = np.flatnonzero(source == number)
            turns = epoch[rows]
            for turn in range(int(turns.min()), int(turns.max()) + 1):
                some = rows[turns == turn]
                key = derive(self.seed, "order", self.sources[number].name, turn)
                size = int(self._sizes[number])
                window[some] = (
                    permutation(rest[some], size, key)
                    if self._piece is None
                    else grouped(rest[some], size, self._piece, key)
                )
        return Place(source, epoch, window)

    def tokens(self, samples: Integers) -> Tokens:
        """The windows of samples: (n, context + 1) of the shards' type, not to be written to.

        Raises:
            DataError: a shard that is missing or damaged.
        """
        shards: list[int] = []
        firsts: list[int] = []
        for sample in np.asarray(samples, dtype=np.int64).tolist():
            shard, first = self._block(sample // _BLOCK)
            shards.append(shard[sample % _BLOCK])
            firsts.append(first[sample % _BLOCK])
        return self._gather(shards, firsts)

    def run(self, first_sample: int, count: int) -> Tokens:
        """`tokens` of `count` samples from a number on, a little faster."""
        number, within = divmod(first_sample, _BLOCK)
        if within + count > _BLOCK:
            return self.tokens(np.arange(first_sample, first_sample + count, dtype=np.int64))
        shards, firsts = self._block(number)
        return self._gather(shards[within : within + count], firsts[within : within + count])

    def windows(self, first_sample: int, count: int) -> tuple[Tokens, NDArray[np.int32]]:
        """`count` samples from a number on: tokens (count, context + 1), and the number of each token's document."""
        tokens = self.run(first_sample, count)
        return tokens, documents(tokens, self.end)[0]

    def epochs(self, samples: int) -> dict[str, float]:
        """How often the first `samples` samples read the text of each source through; above 1, it is repeated."""
        counts = self.mixture.counts(int(self.skips.index(np.array([samples]))[0]))
        sources = zip(self._sets.items(), counts, self._cycles, strict=True)
        return {name: float(count * sets / windows) for (name, sets), count, windows in sources}

    def explain(self, sample: int) -> Explanation:
        """The source, window and documents of a sample.

        Raises:
            DataError: a shard that is missing or damaged.
        """
        one = np.array([sample], dtype=np.int64)
        place = self.locate(one)
        source = self.sources[int(place.source[0])]
        first = int(place.window[0]) * self.context
        found = [source.document(first)]
        while found[-1].end < first + self.context + 1:
            found.append(source.document(found[-1].end))
        return Explanation(
            sample=sample,
            index=int(self.skips.index(one)[0]),
            source=source.name,
            epoch=int(place.epoch[0]),
            window=int(place.window[0]),
            first=first,
            documents=found,
        )

    def _gather(self, shards: list[int], firsts: list[int]) -> Tokens:
        """The windows that start at bytes of shards, as `_work_out` numbers these over all sources."""
        size, mapped = (self.context + 1) * self.dtype.itemsize, self._mapped
        try:
            parts = [mapped[shard][first : first + size] for shard, first in zip(shards, firsts, strict=True)]
        except KeyError:
            parts = [part for pair in zip(shards, firsts, strict=True) for part in self._parts(*pair, size)]
        # One call copies all windows; NumPy's indexing, shard by shard, takes longer.
        return np.frombuffer(b"".join(parts), dtype=self.dtype).reshape(-1, self.context + 1)

    def _parts(self, both: int, first: int, size: int) -> list[memoryview]:
        source, shard = self.sources[both // _SHARDS], both % _SHARDS - 1
        if shard < 0:
            return source.pieces(first, size)
        whole = source.shard(shard)
        if not source.remote:
            # Remote shards may be dropped for others at any time, so they are asked for anew each time.
            self._mapped[both] = whole
        return [whole[first : first + size]]

    def _block(self, number: int) -> tuple[list[int], list[int]]:
        """Where samples stand, worked out for thousands of neighbours at once and kept for a while."""
        found = self._blocks.get(number)
        if found is None:
            found = self._blocks[number] = self._work_out(number)
            if len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return found

    def _work_out(self, number: int) -> tuple[list[int], list[int]]:
        """For each sample of a block, its source times `_SHARDS` plus its shard plus 1, and its first byte there."""
        place = self._located(number)
        shards, firsts = np.empty_like(place.source), np.empty_like(place.source)
        for position, source in enumerate(self.sources):
            rows = np.flatnonzero(place.source == position)
            shard, firsts[rows] = source.place(place.window[rows] * self.context, self.context + 1)
            shards[rows] = position * _SHARDS + shard + 1
            if source.remote:
                ahead = self._located(number + 1)
                for soon in (place, ahead):
                    source.ahead(soon.window[soon.source == position] * self.context)
        return shards.tolist(), firsts.tolist()

    def _located(self, number: int) -> Place:
        return self.locate(np.arange(number * _BLOCK, (number + 1) * _BLOCK, dtype=np.int64))
