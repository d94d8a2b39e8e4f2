"""Statistics of what a model wrote, against the text it was trained on; it knows no model and streams that text.

A word is a run of letters, digits and underscores, with inner apostrophes, in lower case. Scripts written
without spaces give words as long as their clauses: for them these statistics say little.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True)
class Sample:
    """What a model was given and what it wrote on."""

    prompt: str
    text: str


@dataclass(frozen=True)
class Statistics:
    """What `examine` finds.

    Attributes:
        words: how many words the model wrote, over all samples.
        valid: share of them that occur in the training text.
        invalid: those that do not, each once, in order of appearance.
        distinct: share of n-grams of words, each within one sample, that are different from one another.
        copied: n-grams that stand in the training text word for word, each once, in order of appearance.
        distinct_n: the n of `distinct`.
        copied_n: the n of `copied`.
    """

    words: int
    valid: float
    invalid: tuple[str, ...]
    distinct: float
    copied: tuple[str, ...]
    distinct_n: int
    copied_n: int


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return _WORD.findall(text.lower())


def split(sample: Sample) -> tuple[list[str], list[str]]:
    """The words of the prompt, and those the model wrote: a word it finished is its own.

    A last word that reaches the end of the text is left out: a limit on length may have cut it.
    """
    whole, length = (sample.prompt + sample.text).lower(), len(sample.prompt.lower())
    found = list(_WORD.finditer(whole))
    if found and found[-1].end() == len(whole) > length:
        found.pop()
    given = [match[0] for match in found if match.end() <= length]
    return given, [match[0] for match in found[len(given) :]]


def word_validity(spoken: Iterable[str], texts: Iterable[str]) -> tuple[float, tuple[str, ...]]:
    """The share of words that occur in the training text, and those that do not.

    Memory grows with the words asked about, never with the texts.

    Returns:
        The share (NaN for no words), and the words not found, each once.
    """
    asked = list(spoken)
    search = _WordSearch(asked)
    for text in texts:
        search.read(set(words(text)))
    return search.share(asked), search.missing()


def distinct_share(sequences: Iterable[Sequence[str]], n: int = 4) -> float:
    """The share of n-grams, over all sequences and never across two, that are different (Li et al. 2016, distinct-n).

    Returns:
        NaN where no sequence has n words.
    """
    grams = [gram for sequence in sequences for gram in _ngrams(sequence, n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def copied_ngrams(sequences: Iterable[Sequence[str]], texts: Iterable[str], n: int = 13) -> tuple[str, ...]:
    """The n-grams of the sequences that occur in a training text, compared as words (Brown et al. 2020, appendix C).

    Memory grows with the sequences, never with the texts.
    """
    search = _CopySearch(sequences, n)
    for text in texts:
        search.read(words(text))
    return search.found()


def examine(samples: Sequence[Sample], texts: Iterable[str], *, distinct_n: int = 4, copied_n: int = 13) -> Statistics:
    """All three statistics in one pass over the training text.

    An n-gram counts as copied also where it begins in the prompt, as long as the model wrote its last word.

    Args:
        samples: what the model wrote.
        texts: the documents it was trained on; read once, none is kept.
        distinct_n: length of the n-grams that should differ.
        copied_n: length of the n-grams that should not be copied.
    """
    parts = [split(sample) for sample in samples]
    wrote = [own for _, own in parts]
    spoken = [word for own in wrote for word in own]
    reach = [given[max(0, len(given) - copied_n + 1) :] + own for given, own in parts]
    validity, copies = _WordSearch(spoken), _CopySearch(reach, copied_n)
    for text in texts:
        read = words(text)
        validity.read(set(read))
        copies.read(read)
    return Statistics(
        words=len(spoken),
        valid=validity.share(spoken),
        invalid=validity.missing(),
        distinct=distinct_share(wrote, distinct_n),
        copied=copies.found(),
        distinct_n=distinct_n,
        copied_n=copied_n,
    )


class _WordSearch:
    """Which of some words have not been read yet."""

    def __init__(self, asked: Iterable[str]) -> None:
        self._unseen = dict.fromkeys(asked)

    def read(self, found: set[str]) -> None:
        for word in [word for word in self._unseen if word in found]:
            del self._unseen[word]

    def share(self, asked: Sequence[str]) -> float:
        return sum(word not in self._unseen for word in asked) / len(asked) if asked else float("nan")

    def missing(self) -> tuple[str, ...]:
        return tuple(self._unseen)


class _CopySearch:
    """Which n-grams of some sequences have been read."""

    def __init__(self, sequences: Iterable[Sequence[str]], n: int) -> None:
        self._n = n
        self._seen = {gram: False for sequence in sequences for gram in _ngrams(sequence, n)}
        self._vocabulary = frozenset(word for gram in self._seen for word in gram)

    def read(self, text: Sequence[str]) -> None:
        run = 0  # words up to here that all occur in the samples: shorter runs than n need no look-up
        for end, word in enumerate(text, 1):
            run = run + 1 if word in self._vocabulary else 0
            if run >= self._n and (gram := tuple(text[end - self._n : end])) in self._seen:
                self._seen[gram] = True

    def found(self) -> tuple[str, ...]:
        return tuple(" ".join(gram) for gram, seen in self._seen.items() if seen)


def _ngrams(sequence: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]
