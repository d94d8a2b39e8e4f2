"""Span corruption: spans of a window are hidden behind sentinels, and written by the decoder; alone and mixed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from groundup.core.keyed import derive, generator
from groundup.data.continuation import parted
from groundup.data.counts import Corruption, Integers, continued, mixed_widths
from groundup.data.pairs import Pair, Row, lay_out, read_before, texts
from groundup.data.step import Batch


@dataclass(frozen=True)
class Spans:
    """Spans are hidden behind sentinels (T5; Raffel et al. 2020, section 3.1.4, and its `random_spans_noise_mask`).

    The source is the text with a sentinel for each span, then `end`; the target each sentinel and its span, then `end`.
    The text begins with what is left and ends with what is hidden; all ways to part it so are equally likely. A span
    is of the document of its first token.

    Attributes:
        seed: names the spans.
        corruption: how many there are.
        first: the first sentinel's id; those that follow have smaller ones.
        end: the id that ends documents.
        start: the id that the decoder begins with; None: `end`.
    """

    seed: int
    corruption: Corruption
    first: int
    end: int
    start: int | None = None

    def targets(self, samples: Integers, filled: Integers) -> Integers:
        """Sentinels, hidden tokens and `end`, whatever the sample's number."""
        del samples
        return self.corruption.target(filled)

    def show(self, batch: Batch, samples: Integers, filled: Integers) -> Batch:
        """The text with sentinels as source, what is hidden as target."""
        pairs = [self.pair(row) for row in texts(batch, samples, filled)]
        return lay_out(pairs, self.corruption.widths(batch.tokens_BT.shape[1]), self.end, self.start)

    def pair(self, row: Row) -> Pair:
        """What is read and written of a text."""
        length = np.array([row.tokens.size])
        (hidden,), (spans,) = self.corruption.hidden(length).tolist(), self.corruption.spans(length).tolist()
        last = row.documents[-1:] if length[0] else np.zeros(1, dtype=np.int64)
        if not hidden:
            nothing = row.tokens[:0]
            source = np.append(row.tokens, self.end)
            return Pair(source, np.append(row.documents, last), nothing, nothing)
        draw = generator(self.seed, "spans", row.sample)
        hidden_lengths = _parts(draw, hidden, spans)
        left_lengths = _parts(draw, row.tokens.size - hidden, spans)
        begins = (left_lengths + hidden_lengths).cumsum() - hidden_lengths
        is_hidden = np.tile([False, True], spans).repeat(np.column_stack((left_lengths, hidden_lengths)).ravel())
        sentinels = self.first - np.arange(spans)
        source, left = row.tokens.copy(), ~is_hidden
        source[begins], left[begins] = sentinels, True
        source_documents = row.documents[left]
        target = np.insert(row.tokens[is_hidden], hidden_lengths.cumsum() - hidden_lengths, sentinels)
        documents = np.append(row.documents[begins].repeat(hidden_lengths + 1), row.documents[begins[-1]])
        return Pair(
            np.append(source[left], self.end),
            np.append(source_documents, source_documents[-1:]),
            np.append(target, self.end),
            read_before(documents),
        )


@dataclass(frozen=True)
class Mixture:
    """Each window is hidden by one of several denoisers, all equally likely (UL2; Tay et al. 2022, section 3.1).

    R and X hide spans, short and few or long and many; S hides the last part, a quarter on average, of any length from
    1 to twice that, all equally likely. What S makes has no `end` behind it, as the text goes on behind the window.

    The paper puts the id of the mode before each example (section 3.3). Here every document of a window is one, as none
    sees another: its source begins with the mode. In the first it is one token more. In the others it has the place of
    the `end` that opens them; where that is hidden it is added, as often as the context has room for it, which it lacks
    only where documents are about as short as spans. Where documents are not told apart there is one mode a window.

    Attributes:
        seed: names the denoisers.
        spans: of R and X.
        modes: the id of each of these.
        last_part: the id of S.
        end: the id that ends documents.
        start: the id that the decoder begins with; None: `end`.
    """

    seed: int
    spans: tuple[Spans, ...]
    modes: tuple[int, ...]
    last_part: int
    end: int
    start: int | None = None

    def denoisers(self, samples: Integers) -> Integers:
        """Which denoiser each sample has; the last is S."""
        many = len(self.spans) + 1
        return np.array([derive(self.seed, "denoiser", sample) % many for sample in samples.tolist()], dtype=np.int64)

    def targets(self, samples: Integers, filled: Integers) -> Integers:
        """As many as the sample's denoiser hides, and its sentinels and `end`."""
        counts = np.stack([*(spans.targets(samples, filled) for spans in self.spans), self._last(samples, filled)])
        found: Integers = counts[self.denoisers(samples), np.arange(samples.size)]
        return found

    def show(self, batch: Batch, samples: Integers, filled: Integers) -> Batch:
        """The text as its denoiser shows it."""
        rows = zip(texts(batch, samples, filled), self.denoisers(samples), self._last(samples, filled), strict=True)
        widths = mixed_widths([spans.corruption for spans in self.spans], batch.tokens_BT.shape[1])
        return lay_out([self._pair(*row, widths[0]) for row in rows], widths, self.end, self.start)

    def _last(self, samples: Integers, filled: Integers) -> Integers:
        """Tokens that S hides of each sample."""
        shares = np.array([derive(self.seed, "last part", sample) >> 11 for sample in samples.tolist()]) * 2.0**-53
        mean = continued(filled)
        return np.where(mean > 0, 1 + np.floor(shares * (2 * mean - 1)).astype(np.int64), 0)

    def _pair(self, row: Row, denoiser: int, last: int, width: int) -> Pair:
        if denoiser < len(self.spans):
            mode, pair = self.modes[denoiser], self.spans[denoiser].pair(row)
        elif last:
            mode, pair = self.last_part, parted(row.tokens, row.documents[:-1], row.tokens.size - last)
        else:
            nothing = row.tokens[:0]
            mode, pair = self.last_part, Pair(row.tokens, row.documents, nothing, nothing)
        documents = np.append(pair.source_documents[:1] if pair.source.size else [0], pair.source_documents)
        source, begins = np.append(mode, pair.source), np.flatnonzero(np.diff(documents)) + 1
        opened = source[begins] == self.end
        source[begins[opened]] = mode
        hidden = begins[~opened][: max(0, width - source.size)]
        return pair._replace(
            source=np.insert(source, hidden, mode), source_documents=np.insert(documents, hidden, documents[hidden])
        )


def _parts(draw: np.random.Generator, total: int, parts: int) -> Integers:
    """Lengths of so many parts, each at least 1, that make up the total, all ways equally likely."""
    cuts = np.sort(draw.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate(([0], cuts, [total])))
