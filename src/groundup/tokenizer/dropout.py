"""BPE-dropout: the same text in other pieces, each time a function of its keys; it knows merges and no library.

A byte-pair tokenizer puts a text together merge by merge. Here each possible merge is left out with a probability at
each step, so that a word comes in several segmentations (Provilkov, Emelianenko & Voita 2020, arXiv 1910.13267,
algorithm 1; the idea of sampling them is Kudo's, 2018, arXiv 1804.10959).
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from groundup.core.errors import ConfigError
from groundup.core.keyed import derive, generator
from groundup.tokenizer.protocol import Ids, Tokenizer

VARIANTS = 16
"""Segmentations drawn of a word, among which each of its occurrences takes one."""
LONGEST = 32
"""Characters of a word up to which it is remembered; a longer one is drawn afresh wherever it occurs."""
REMEMBERED = 1 << 16
"""Words in either half of the memory: when the newer half is full, the older is forgotten."""

_NONE = -1  # where no piece stands: behind the ends of a word, in a place merged away, or at a character without one
_BITS = 32


@dataclass(frozen=True)
class Merges:
    """How a byte-pair tokenizer segments (Sennrich, Haddow & Birch 2016).

    Attributes:
        words: what a text is cut into before anything is merged, in the characters that pieces are spelt with.
        ranks: by the two pieces that are merged; a lower one comes first, and of equal ones the leftmost.
        ids: of every piece that a text can be made of.
        bytes: the ids of the 256 bytes, for characters that have no piece; empty where every character has one.
    """

    words: Callable[[str], Sequence[str]]
    ranks: Mapping[tuple[str, str], int]
    ids: Mapping[str, int]
    bytes: Sequence[int]


@runtime_checkable
class Merging(Protocol):
    """A tokenizer that may segment by merges."""

    def merges(self) -> Merges | None:
        """Its merges; None if it has other rules, or others beside them."""
        ...


class Dropout:
    """Encodes documents with merges left out at random.

    Which segmentation a word gets depends on the seed, the set, the document and the word's place in it, and on
    nothing else: not on what was encoded before, nor on what is remembered.

    Args:
        tokenizer: whose pieces and merges are taken.
        dropout: the probability that a possible merge is left out at a step, in [0, 1). With 0 a document has the
            ids that `tokenizer.encode` gives it.
        seed: names the draws.

    Raises:
        ConfigError: the tokenizer does not segment by merges alone.
    """

    def __init__(self, tokenizer: Tokenizer, dropout: float, seed: int = 0) -> None:
        where = f"bpe_dropout={dropout:g}"
        if not 0 <= dropout < 1:
            raise ConfigError(where, "must be at least 0 and below 1", "give 0.1, as its paper does")
        merges = tokenizer.merges() if isinstance(tokenizer, Merging) else None
        if merges is None:
            what = f"this tokenizer ({tokenizer.card()['format']}) does not segment by merges of byte pairs alone"
            raise ConfigError(where, what, "choose tokenizer=bpe or a pretrained one that does")
        self._seed, self._key = seed, derive(seed, "segmentation of a word").to_bytes(8, "little")
        self._dropped_below = round(dropout * 2**_BITS)
        self._words, self._bytes = merges.words, merges.bytes
        names = dict.fromkeys([*merges.ids, *(part for pair in merges.ranks for part in pair)])
        self._symbols = {name: number for number, name in enumerate(names)}
        self._ids = [(merges.ids[name],) if name in merges.ids else self._in_bytes(name) for name in names]
        self._merged = {
            self._symbols[left] << _BITS | self._symbols[right]: (rank, self._symbols[left + right])
            for (left, right), rank in merges.ranks.items()
        }
        self._bonds = _bonds(left + right for left, right in merges.ranks)
        self._newer: dict[str, list[tuple[int, ...] | None]] = {}
        self._older: dict[str, list[tuple[int, ...] | None]] = {}

    def encode(self, text: str, document: str, sets: Sequence[int]) -> list[Ids]:
        """The ids of a text in each of some sets.

        Args:
            text: the text.
            document: what names it.
            sets: numbers; the segmentation is another one in each.

        Raises:
            UnicodeEncodeError: the text holds a lone surrogate, which is no character.
        """
        parts = [part for word in self._words(text) for part in self._cut(word)]
        return [self._one(parts, document, number) for number in sets]

    def _one(self, parts: Sequence[str], document: str, number: int) -> Ids:
        keys = (self._seed, "segmentation of a document", number, document)
        fresh = derive(*keys, "afresh").to_bytes(8, "little")
        choices = (generator(*keys).bit_generator.random_raw(len(parts)) % VARIANTS).tolist()
        ids: list[int] = []
        for place, (part, choice) in enumerate(zip(parts, choices, strict=True)):
            if len(part) > LONGEST:
                ids += self._draw(part, fresh + place.to_bytes(8, "little"))
                continue
            row = self._newer.get(part) or self._row(part)
            found = row[choice]
            if found is None:
                found = row[choice] = self._draw(part, self._key + bytes([choice]) + part.encode())
            ids += found
        return np.array(ids, dtype=np.int32)

    def _row(self, word: str) -> list[tuple[int, ...] | None]:
        """What is remembered of a word; the words met last are, up to twice `REMEMBERED` of them."""
        if len(self._newer) >= REMEMBERED:
            self._older, self._newer = self._newer, {}
        row = self._newer[word] = self._older.get(word) or [None] * VARIANTS
        return row

    def _cut(self, word: str) -> list[str]:
        """A word in parts that no merge joins: between them stand two characters that no piece holds side by side.

        A part is segmented as it would be inside the word, so that long ones need not be handled as a whole.
        """
        if len(word) < 2:
            return [word] if word else []
        characters = np.frombuffer(word.encode("utf-32-le"), dtype=np.uint32).astype(np.int64)
        pairs = characters[:-1] << _BITS | characters[1:]
        at = np.searchsorted(self._bonds, pairs)
        cuts = (np.flatnonzero(self._bonds[at] != pairs) + 1).tolist()
        return [word[first:end] for first, end in zip([0, *cuts], [*cuts, len(word)], strict=True)]

    def _draw(self, word: str, key: bytes) -> tuple[int, ...]:
        """One segmentation of a word: the best merge that is not left out, again and again, until all are."""
        if len(word) == 1:
            return self._piece(self._symbols.get(word, _NONE), word)
        merged, symbols = self._merged, [self._symbols.get(character, _NONE) for character in word]
        size = len(symbols)
        symbols.append(_NONE)
        before, after = list(range(-1, size)), list(range(1, size + 2))
        pairs = [left << _BITS | right for left, right in itertools.pairwise(symbols[:size])]
        heap = [(merged[pair][0], place, pair) for place, pair in enumerate(pairs) if pair in merged]
        heapq.heapify(heap)
        coins, left_out = _coins(key), []
        while heap:
            candidate = heapq.heappop(heap)
            _, place, pair = candidate
            following = after[place]
            if symbols[place] << _BITS | symbols[following] != pair:
                continue  # one of the two was merged since
            if self._dropped_below and next(coins) < self._dropped_below:
                left_out.append(candidate)
                continue
            symbols[place], symbols[following] = merged[pair][1], _NONE
            after[place] = after[following]
            before[after[place]] = place
            for near in (before[place], place):
                if near >= 0 and (pair := symbols[near] << _BITS | symbols[after[near]]) in merged:
                    heapq.heappush(heap, (merged[pair][0], near, pair))
            while left_out:  # for this step alone
                heapq.heappush(heap, left_out.pop())
        ids: list[int] = []
        place = 0
        while place < size:
            ids += self._piece(symbols[place], word[place])
            place = after[place]
        return tuple(ids)

    def _piece(self, symbol: int, character: str) -> tuple[int, ...]:
        return self._ids[symbol] if symbol != _NONE else self._in_bytes(character)

    def _in_bytes(self, characters: str) -> tuple[int, ...]:
        return tuple(self._bytes[byte] for byte in characters.encode())


def _coins(key: bytes) -> Iterator[int]:
    """Numbers in [0, 2**32) that belong to a key."""
    for block in itertools.count():
        digest = hashlib.blake2b(block.to_bytes(8, "little") + key).digest()
        yield from struct.unpack("<16I", digest)


def _bonds(pieces: Iterator[str]) -> npt.NDArray[np.int64]:
    """The pairs of characters that stand side by side in some piece, sorted, with one behind them all."""
    pairs = {pair for piece in pieces for pair in itertools.pairwise(piece)}
    return np.array([*sorted(ord(left) << _BITS | ord(right) for left, right in pairs), np.iinfo(np.int64).max])
