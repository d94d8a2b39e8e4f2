"""One source of a split as one row of tokens, memory-mapped; in what order it is read is not its business."""

from __future__ import annotations

import mmap
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import DataError
from groundup.shard.manifest import REMEDY, Manifest, Stored
from groundup.shard.provenance import Reader
from groundup.shard.storage import Storage

Integers = NDArray[np.int64]
Tokens = NDArray[Any]


@dataclass(frozen=True)
class Document:
    """A document of a source: its number there, its tokens [first, end) with the `end` that closes it, its record."""

    number: int
    first: int
    end: int
    provenance: dict[str, Any]


class Source:
    """All tokens of a source of a split, as if its shards were one file; a window may lie across shards.

    Nothing is read before it is asked for and nothing is copied but windows; a copy in another process maps again.

    Args:
        storage: the data folder.
        manifest: its table of contents.
        split: "train" or "held_out".
        name: the source.
    """

    def __init__(self, storage: Storage, manifest: Manifest, split: str, name: str) -> None:
        holding = manifest.splits[split][name]
        self.name, self.split = name, split
        self.tokens, self.bytes, self.documents = holding.tokens, holding.bytes, holding.documents
        self.dtype = np.dtype(manifest.tokenizer.dtype).newbyteorder("<")
        self.remote = not storage.local
        self._storage = storage
        self._shards = holding.shards
        self._firsts = np.concatenate([[0], np.cumsum([shard.tokens for shard in holding.shards])]).astype(np.int64)
        self._maps: OrderedDict[int, memoryview] = OrderedDict()

    def __len__(self) -> int:
        return self.tokens

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": OrderedDict()}

    def count(self, context: int) -> int:
        """How many windows of `context` tokens and their successors there are, one after the other."""
        return max(0, (self.tokens - 1) // context)

    def windows(self, indices: Integers, context: int) -> Tokens:
        """Window w holds the tokens from w * context, one more than `context` so that each has its successor.

        Args:
            indices: (n,), in [0, count(context)).

        Returns:
            (n, context + 1) of the shards' type, not to be written to.
        """
        return self.gather(np.asarray(indices, dtype=np.int64) * context, context + 1)

    def gather(self, starts: Integers, length: int) -> Tokens:
        """The `length` tokens from each start: (n, length) of the shards' type.

        Raises:
            IndexError: a stretch that is not wholly inside.
            DataError: a shard that is missing or damaged.
        """
        starts = np.asarray(starts, dtype=np.int64)
        if starts.size and (int(starts.min()) < 0 or int(starts.max()) + length > self.tokens):
            raise IndexError(f"{self.name} has {self.tokens} tokens; a stretch of {length} lies outside")
        size = length * self.dtype.itemsize
        parts = [piece for start in starts.tolist() for piece in self.pieces(start * self.dtype.itemsize, size)]
        return np.frombuffer(b"".join(parts), dtype=self.dtype).reshape(-1, length)

    def place(self, starts: Integers, length: int) -> tuple[Integers, Integers]:
        """The shard that holds each stretch, or -1 where it lies across shards, and its first byte there or in all."""
        shards = np.searchsorted(self._firsts, starts, side="right") - 1
        inside = starts + length <= self._firsts[shards + 1]
        first = np.where(inside, starts - self._firsts[shards], starts)
        return np.where(inside, shards, -1), first * self.dtype.itemsize

    def pieces(self, first: int, size: int) -> list[memoryview]:
        """The bytes [first, first + size) of the source, from as many shards as they lie in."""
        made: list[memoryview] = []
        shard = int(np.searchsorted(self._firsts, first // self.dtype.itemsize, side="right")) - 1
        first -= int(self._firsts[shard]) * self.dtype.itemsize
        while size > 0:
            made.append(self.shard(shard)[first : first + size])
            size -= len(made[-1])
            shard, first = shard + 1, 0
        return made

    def document(self, offset: int) -> Document:
        """The document that holds the token at an offset.

        Raises:
            IndexError: no such token.
            DataError: a shard that is missing or damaged.
        """
        if not 0 <= offset < self.tokens:
            raise IndexError(f"{self.name} has {self.tokens} tokens; there is none at {offset}")
        number = int(np.searchsorted(self._firsts, offset, side="right")) - 1
        first, shard = int(self._firsts[number]), self._shards[number]
        path = self._storage.path(shard.ends.file, shard.ends.size, shard.ends.sha256)
        ends = np.memmap(path, dtype="<u8", mode="r")
        inside = int(np.searchsorted(ends, offset - first, side="right"))
        if inside >= shard.documents:
            raise DataError(str(path), f"does not reach token {offset - first}", REMEDY)
        before = sum(item.documents for item in self._shards[:number])
        stored = shard.provenance
        reader = Reader(self._storage.path(stored.file, stored.size, stored.sha256))
        return Document(
            number=before + inside,
            first=first + (int(ends[inside - 1]) if inside else 0),
            end=first + int(ends[inside]),
            provenance=reader.record(inside),
        )

    def ahead(self, starts: Integers) -> None:
        """Have the shards of these offsets fetched in the background, as far as the storage has room for them."""
        room = (self._storage.limit or 0) // 2
        for number in np.unique(np.searchsorted(self._firsts, starts, side="right") - 1).tolist():
            data = self._shards[number].data
            room -= data.size
            if room < 0:
                break
            self._storage.ahead([(data.file, data.size, data.sha256)])

    def shard(self, shard: int) -> memoryview:
        """All bytes of a shard, mapped.

        Raises:
            DataError: it is missing or damaged.
        """
        found = self._maps.get(shard)
        if found is not None:
            if self._storage.limit is not None:
                self._maps.move_to_end(shard)
            return found
        stored = self._shards[shard].data
        self._make_room(stored)
        path = self._storage.path(stored.file, stored.size, stored.sha256)
        try:
            with path.open("rb") as file:
                mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise DataError(str(path), f"cannot be mapped ({error.strerror})", "make it readable") from error
        self._maps[shard] = mapped
        return mapped

    def _make_room(self, stored: Stored) -> None:
        """Let go of the maps used longest ago where the cache is bounded, so that their space on disk is freed."""
        limit = self._storage.limit
        if limit is None:
            return
        held = sum(len(mapped) for mapped in self._maps.values())
        while self._maps and held + stored.size > limit:
            held -= len(self._maps.popitem(last=False)[1])
