"""Denoising of whole texts: sentences are put in another order and spans hidden; the decoder writes the text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from groundup.core.keyed import generator
from groundup.data.counts import Integers
from groundup.data.pairs import Pair, Row, lay_out, read_before, texts
from groundup.data.pieces import Flags
from groundup.data.step import Batch


@dataclass(frozen=True, eq=False)
class Denoise:
    """The window is written anew from a source with noise (BART; Lewis et al. 2020, section 2.2).

    Text infilling: spans of lengths that Poisson's law gives are hidden behind one mask each, also those of no length,
    of which as many are left out as the context has no room for. Sentence permutation: those of a document come in any
    order. `end`, which opens documents, is never hidden and stays; a span that it divides has two masks.

    Attributes:
        seed: names the noise.
        share: of the tokens that is hidden.
        mean: tokens of a span.
        mask: the mask's id.
        end: the id that opens documents.
        sentence_ends: whether each id ends a sentence, (V,); None: sentences stay.
        start: the id that the decoder begins with; None: `end`.
    """

    seed: int
    share: float
    mean: float
    mask: int
    end: int
    sentence_ends: Flags | None = None
    start: int | None = None

    def targets(self, samples: Integers, filled: Integers) -> Integers:
        """All tokens."""
        del samples
        return filled.copy()

    def show(self, batch: Batch, samples: Integers, filled: Integers) -> Batch:
        """The text with noise as source, the text as target."""
        context = batch.tokens_BT.shape[1]
        pairs = [self._pair(row) for row in texts(batch, samples, filled)]
        return lay_out(pairs, (context, context), self.end, self.start)

    def _pair(self, row: Row) -> Pair:
        if not row.tokens.size:
            return Pair(row.tokens, row.documents, row.tokens, row.documents)
        draw = generator(self.seed, "denoise", row.sample)
        tokens = row.tokens if self.sentence_ends is None else row.tokens[self._permuted(draw, row.tokens)]
        return Pair(*self._infilled(draw, tokens, row.documents), row.tokens, read_before(row.documents))

    def _permuted(self, draw: np.random.Generator, tokens: Integers) -> Integers:
        """Where each token of the source comes from, (n,)."""
        assert self.sentence_ends is not None
        opens = tokens == self.end
        begins = opens.copy()
        begins[1:] |= opens[:-1] | self.sentence_ends[tokens[:-1]]
        begins[0] = True
        first = np.flatnonzero(begins)
        order = np.lexsort((draw.random(first.size), ~opens[first], opens.cumsum()[first]))
        turn = np.empty_like(order)
        turn[order] = np.arange(order.size)
        found: Integers = turn[begins.cumsum() - 1].argsort(kind="stable")
        return found

    def _infilled(self, draw: np.random.Generator, tokens: Integers, documents: Integers) -> tuple[Integers, Integers]:
        """Tokens with spans hidden, and the documents of what is left."""
        places = np.flatnonzero(tokens != self.end)
        hidden = round(self.share * places.size)
        lengths = self._lengths(draw, hidden)
        # Spans and the tokens that are left, in an order of which all are equally likely.
        slots = np.sort(draw.choice(places.size - hidden + lengths.size, lengths.size, replace=False))
        begins = slots - np.arange(lengths.size) + lengths.cumsum() - lengths
        is_hidden, is_mask = np.zeros((2, tokens.size), dtype=bool)
        filled = lengths > 0
        is_hidden[places[_ranges(begins[filled], lengths[filled])]] = True
        is_mask[places[begins[filled]]] = True
        is_mask[1:] |= is_hidden[1:] & (tokens[:-1] == self.end)
        shown, left = np.where(is_mask, self.mask, tokens), ~is_hidden | is_mask
        room = tokens.size - int(left.sum())
        added = np.append(places, tokens.size)[begins[~filled][:room]]
        shown, left = np.insert(shown, added, self.mask), np.insert(left, added, True)
        kept = np.insert(documents, added, documents[np.minimum(added, tokens.size - 1)])
        return shown[left], kept[left]

    def _lengths(self, draw: np.random.Generator, hidden: int) -> Integers:
        """Lengths of spans that make up what is hidden; the last is cut."""
        lengths = np.zeros(0, dtype=np.int64)
        while lengths.sum() < hidden:
            lengths = np.append(lengths, draw.poisson(self.mean, size=hidden))
        sums = lengths.cumsum()
        lengths = lengths[: int(sums.searchsorted(hidden)) + 1] if hidden else lengths
        if lengths.size:
            lengths[-1] -= lengths.sum() - hidden
        return lengths


def _ranges(begins: Integers, lengths: Integers) -> Integers:
    """The numbers of several ranges, one behind another."""
    within = np.arange(lengths.sum()) - (lengths.cumsum() - lengths).repeat(lengths)
    found: Integers = begins.repeat(lengths) + within
    return found
