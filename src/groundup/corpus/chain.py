"""The steps every document goes through: each returns the document, changed or not, or a reason to drop it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from groundup.corpus.document import Document

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Drop:
    """A reason not to keep a document, worded so that equal reasons can be counted."""

    reason: str


class Step(Protocol):
    """One step over documents. It is called with each in order and may remember what it saw."""

    def __call__(self, document: Document) -> Document | Drop:
        """The document to go on with, or why there is none."""
        ...


class Chain:
    """Steps one after the other, with a count of what each dropped.

    Attributes:
        dropped: how many documents were dropped, by (step, reason).
    """

    def __init__(self, steps: Mapping[str, Step]) -> None:
        self._steps = dict(steps)
        self.dropped: Counter[tuple[str, str]] = Counter()

    def run(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents that every step kept."""
        for document in documents:
            kept = self._through(document)
            if kept is not None:
                yield kept

    def _through(self, document: Document) -> Document | None:
        for name, step in self._steps.items():
            result = step(document)
            if isinstance(result, Drop):
                self.dropped[name, result.reason] += 1
                return None
            document = result
        return document


class Unicode:
    """Drops texts that no UTF-8 file could hold (lone surrogates, as JSON escapes may bring) or that hold NUL."""

    def __call__(self, document: Document) -> Document | Drop:
        if _SURROGATE.search(document.text):
            return Drop("lone surrogate")
        return Drop("NUL character") if "\0" in document.text else document


class Length:
    """Drops texts by their number of characters, white space at either end not counted.

    Args:
        shortest: the fewest characters to keep.
        longest: the most, or None for any number.
    """

    def __init__(self, shortest: int, longest: int | None) -> None:
        self._shortest = shortest
        self._longest = longest

    def __call__(self, document: Document) -> Document | Drop:
        length = len(document.text.strip())
        if length == 0 and self._shortest > 0:
            return Drop("empty")
        if length < self._shortest:
            return Drop(f"shorter than {self._shortest} characters")
        if self._longest is not None and length > self._longest:
            return Drop(f"longer than {self._longest} characters")
        return document


class Duplicate:
    """Drops texts seen before, of whatever source: the first stays.

    It remembers 8 bytes of a hash per text, about 60 bytes of memory each. Two different texts meet by chance with
    probability n^2 / 2^65: 3% among a billion.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def __call__(self, document: Document) -> Document | Drop:
        mark = int(document.fingerprint[:16], 16)
        if mark in self._seen:
            return Drop("exact duplicate")
        self._seen.add(mark)
        return document
