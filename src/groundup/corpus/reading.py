"""One pass over all sources: documents through the steps, each with its split, and a tally; it does not encode them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from groundup.core.errors import DataError
from groundup.core.split import HELD_OUT, TRAIN, side
from groundup.corpus.chain import Chain, Step
from groundup.corpus.document import Document, Source


@dataclass
class Tally:
    """What a pass saw of one source.

    Attributes:
        documents: kept, by split.
        bytes: of their texts in UTF-8, by split.
        dropped: by (step, reason).
    """

    documents: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)


class Reading:
    """Passes over the same documents, as many as are wanted.

    Args:
        sources: by name, read in this order.
        steps: makes the steps anew for each pass, as steps may remember what they saw.
        seed: of the split.
        held_out: the fraction of documents held out.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        steps: Callable[[], Mapping[str, Step]],
        seed: int,
        held_out: float,
    ) -> None:
        self._sources = dict(sources)
        self._steps = steps
        self._seed = seed
        self._held_out = held_out
        self.tallies: dict[str, Tally] = {}

    def by_source(self) -> Iterator[tuple[str, Iterator[tuple[str, Document]]]]:
        """One pass: each source's name with its documents and their splits, to be read to the end in turn.

        `tallies` is the pass's own once it has ended.

        Raises:
            DataError: from a source, or when a source or a split turns out to be empty.
        """
        tallies: dict[str, Tally] = {}
        chain = Chain(self._steps())
        for name, source in self._sources.items():
            tally = tallies[name] = Tally()
            chain.dropped = tally.dropped
            yield name, self._split(name, chain.run(source.documents()), tally)
            if not tally.documents:
                raise _empty(name, tally)
        self._check_splits(tallies)
        self.tallies = tallies

    def _split(self, name: str, documents: Iterable[Document], tally: Tally) -> Iterator[tuple[str, Document]]:
        for document in documents:
            split = side(document.fingerprint, self._seed, self._held_out)
            try:
                tally.bytes[split] += len(document.text.encode())
            except UnicodeEncodeError as error:
                what = f"{document.place} holds a lone surrogate ({error.reason})"
                raise DataError(f"source.{name}", what, "put unicode into step, which drops such texts") from None
            tally.documents[split] += 1
            yield split, document

    def train_texts(self) -> Iterator[str]:
        """One pass over the texts that are not held out."""
        for _, documents in self.by_source():
            for split, document in documents:
                if split == TRAIN:
                    yield document.text

    def _check_splits(self, tallies: Mapping[str, Tally]) -> None:
        where = f"held_out={self._held_out}"
        remedy = "give more or smaller documents (source.text.document=paragraph) or change held_out or seed"
        for name, tally in tallies.items():
            if not tally.documents[TRAIN]:
                raise DataError(where, f"leaves none of the {tally.documents.total()} documents of {name}", remedy)
        if self._held_out > 0 and not any(tally.documents[HELD_OUT] for tally in tallies.values()):
            total = sum(tally.documents.total() for tally in tallies.values())
            raise DataError(where, f"holds out none of {total} documents", remedy)


def _empty(name: str, tally: Tally) -> DataError:
    reasons = ", ".join(f"{count} {reason}" for (_, reason), count in tally.dropped.most_common())
    what = f"every document was dropped: {reasons}" if reasons else "holds no document"
    return DataError(
        f"source.{name}", what, "give a source that has some text" + (" or change step" if reasons else "")
    )
