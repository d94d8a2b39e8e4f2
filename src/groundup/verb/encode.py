"""One pass that turns documents into shards, and the table that tells what it did; folders are made elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from groundup.core.errors import DataError
from groundup.core.split import HELD_OUT, SPLITS
from groundup.corpus.document import Document
from groundup.corpus.reading import Reading, Tally
from groundup.evaluation.held_out import HeldOutItems
from groundup.shard.manifest import SET, Holding, dtype_for
from groundup.shard.writer import Writer
from groundup.tokenizer.dropout import Dropout
from groundup.tokenizer.protocol import Ids, Tokenizer

BATCH_BYTES = 4 << 20  # of text encoded at a time
TELL_S = 10.0  # seconds between two lines of progress
CHECKED = 32  # documents of each source that must come back from their ids


@dataclass
class Row:
    """What became of one source.

    Attributes:
        tokens: by split, ends of documents included; of sampled sets those of the first.
        seconds: reading, encoding and writing.
        lost: what the first document that did not come back from its ids lost, or None.
    """

    name: str
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    seconds: float = 0.0
    lost: str | None = None


class Encoding:
    """Encodes every document of a reading and writes it to the shards of its source and split.

    Args:
        tokenizer: makes the ids.
        folder: where the shards go.
        shard_tokens: tokens in a shard file before the next begins.
        strict: whether a document that does not come back from its ids is an error.
        items: is given every held-out document.
        dropout: segments the training text; None: the tokenizer does, as it does all other text.
        sets: how often the training text is written, segmented otherwise each time.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        folder: Path,
        shard_tokens: int,
        strict: bool,
        items: HeldOutItems,
        dropout: Dropout | None = None,
        sets: int = 1,
    ) -> None:
        self._tokenizer = tokenizer
        self._folder = folder
        self._shard_tokens = shard_tokens
        self._strict = strict
        self._items = items
        self._dropout = dropout
        self._sets = range(1, sets + 1)
        self.dtype = dtype_for(tokenizer.vocabulary)
        self.rows: list[Row] = []

    def run(self, reading: Reading) -> dict[str, dict[str, Holding]]:
        """What was written, by split and source.

        Raises:
            DataError: from a source, or a document that does not come back from its ids.
            StorageError: the shards cannot be written.
        """
        holdings: dict[str, dict[str, Holding]] = {split: {} for split in SPLITS}
        for name, documents in reading.by_source():
            began = time.perf_counter()
            row, told = Row(name), began
            with ExitStack() as stack:
                writers = {
                    split: {held: stack.enter_context(self._writer(split, held)) for held in self._names(split, name)}
                    for split in SPLITS
                }
                for batch in batches(documents):
                    for (split, document), arrays in zip(batch, self._encode(row, batch), strict=True):
                        provenance = {**document.origin, "hash": document.fingerprint}
                        for writer, ids in zip(writers[split].values(), arrays, strict=True):
                            writer.add(ids, len(document.text.encode()), provenance)
                        row.tokens[split] += len(arrays[0]) + 1
                        if split == HELD_OUT:
                            self._items.add(name, document.fingerprint, document.text)
                    if time.perf_counter() - told > TELL_S:
                        told = time.perf_counter()
                        print(f"{name}: {sum(row.tokens.values()):,} tokens after {told - began:.0f} s", flush=True)
                for split, held, writer in ((s, h, w) for s, named in writers.items() for h, w in named.items()):
                    holding = Holding.of(writer.close())
                    if holding.documents:
                        holdings[split][held] = holding
            row.seconds = time.perf_counter() - began
            self.rows.append(row)
        return holdings

    def _names(self, split: str, source: str) -> list[str]:
        """What a source is called in a split: in the training text once for each of its sampled sets."""
        if split == HELD_OUT or len(self._sets) == 1:
            return [source]
        return [f"{source}{SET}{number}" for number in self._sets]

    def _writer(self, split: str, name: str) -> Writer:
        vocabulary, end = self._tokenizer.vocabulary, self._tokenizer.end
        return Writer(self._folder, split, name, self.dtype, self._shard_tokens, vocabulary=vocabulary, end=end)

    def _encode(self, row: Row, batch: Sequence[tuple[str, Document]]) -> Iterator[list[Ids]]:
        """The ids of each document: one array, or one a set where it is sampled."""
        usual = [document.text for split, document in batch if self._dropout is None or split == HELD_OUT]
        encoded = iter(self._tokenizer.encode_batch(usual))
        first = not any(row.tokens.values())
        for number, (split, document) in enumerate(batch):
            if self._dropout is None or split == HELD_OUT:
                arrays = [next(encoded)]
            else:
                arrays = self._dropout.encode(document.text, document.fingerprint, self._sets)
            if first and number < CHECKED and row.lost is None:
                row.lost = self._loss(row.name, document, arrays[-1])
            yield arrays

    def _loss(self, name: str, document: Document, ids: Ids) -> str | None:
        back = self._tokenizer.decode(ids.tolist())
        if back == document.text:
            return None
        at = next((i for i, (a, b) in enumerate(zip(document.text, back, strict=False)) if a != b), len(back))
        was, now = document.text[at : at + 12], back[at : at + 12]
        what = f"{document.place}: {was!r} comes back from its ids as {now!r}"
        if self._strict:
            remedy = "choose tokenizer=bpe or tokenizer=bytes, or accept the loss with lossless=warning"
            raise DataError(f"source.{name}", what, remedy)
        return what


def batches(documents: Iterator[tuple[str, Document]]) -> Iterator[list[tuple[str, Document]]]:
    """Documents in runs of about `BATCH_BYTES` characters."""
    held: list[tuple[str, Document]] = []
    size = 0
    for item in documents:
        held.append(item)
        size += len(item[1].text) + 64
        if size >= BATCH_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def table(rows: Sequence[Row], tallies: Mapping[str, Tally]) -> list[str]:
    """What was prepared, in lines: a row a source and one for all, then what was dropped, held out by none, or lost."""
    heads = ("source", "documents", "held out", "MB", "tokens", "bytes/token", "seconds")
    body: list[tuple[str, ...]] = [heads]
    body += [_cells(row.name, [tallies[row.name]], [row]) for row in rows]
    if len(rows) > 1:
        body.append(_cells("all", list(tallies.values()), list(rows)))
    widths = [max(len(cells[i]) for cells in body) for i in range(len(heads))]
    lines = [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))) for r in body
    ]
    for name, tally in tallies.items():
        lines += [f"dropped from {name}: {n:,} {why} (step.{step})" for (step, why), n in tally.dropped.most_common()]
        if not tally.documents[HELD_OUT]:
            lines.append(f"note: nothing of {name} is held out")
    lines += [f"warning: source.{row.name}: {row.lost}" for row in rows if row.lost]
    return lines


def _cells(name: str, tallies: Sequence[Tally], rows: Sequence[Row]) -> tuple[str, ...]:
    documents = {split: sum(tally.documents[split] for tally in tallies) for split in SPLITS}
    size = sum(tally.bytes.total() for tally in tallies)
    tokens = sum(sum(row.tokens.values()) for row in rows)
    return (
        name,
        f"{sum(documents.values()):,}",
        f"{documents[HELD_OUT]:,}",
        f"{size / 1e6:.2f}",
        f"{tokens:,}",
        f"{size / max(tokens - sum(documents.values()), 1):.2f}",
        f"{sum(row.seconds for row in rows):.1f}",
    )
