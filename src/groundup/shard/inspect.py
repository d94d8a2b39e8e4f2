"""Looks into a data folder: what it holds, and what any sample of a stream was made of; it changes nothing.

python -m groundup.shard.inspect FOLDER [--split SPLIT]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from groundup.core.errors import answered
from groundup.shard.documents import documents
from groundup.shard.manifest import Manifest
from groundup.shard.stream import Explanation, Stream


@dataclass(frozen=True)
class Sample:
    """A sample with what is behind it: ids (context + 1,), their text if a decoder was given, and its explanation."""

    ids: list[int]
    starts: list[int]
    text: str | None
    explanation: Explanation

    def __str__(self) -> str:
        why = self.explanation
        lines = [
            f"sample {why.sample} (index {why.index}): {why.source}, epoch {why.epoch}, window {why.window}, "
            f"tokens {why.first:,} to {why.first + len(self.ids) - 1:,}"
        ]
        for document in why.documents:
            where = ", ".join(f"{key} {value}" for key, value in document.provenance.items())
            lines.append(f"  document {document.number:,} (tokens {document.first:,} to {document.end - 1:,}): {where}")
        lines.append(f"  documents open at positions {self.starts}" if self.starts else "  no document opens inside")
        lines.append(f"  {self.text!r}" if self.text is not None else f"  {self.ids}")
        return "\n".join(lines)


def look(
    stream: Stream, first: int, count: int = 1, decode: Callable[[Sequence[int]], str] | None = None
) -> Iterator[Sample]:
    """The samples [first, first + count) of a stream, each with its documents and where they came from.

    Args:
        stream: as training reads it.
        first: the number of a sample.
        count: how many.
        decode: turns ids into text.

    Raises:
        DataError: a shard that is missing or damaged.
    """
    for sample in range(first, first + count):
        window = stream.tokens(np.array([sample]))
        ids = window[0].tolist()
        positions = documents(window, stream.end)[1][0]
        opened = [place for place in np.flatnonzero(positions == 0).tolist() if ids[place] == stream.end]
        yield Sample(ids, opened, decode(ids) if decode else None, stream.explain(sample))


def summary(folder: str | Path, split: str | None = None) -> str:
    """A table of what a data folder holds, as text.

    Raises:
        DataError: no manifest, or a damaged one.
    """
    manifest = Manifest.read(folder)
    tokenizer = manifest.tokenizer
    lines = [
        f"{folder}: {tokenizer.vocabulary:,} ids as {tokenizer.dtype}, end {tokenizer.end}, "
        f"tokenizer {tokenizer.digest[:12]}, data {manifest.digest[:12]}",
        f"{'split':<10} {'source':<20} {'shards':>7} {'documents':>12} {'tokens':>16} {'bytes':>16} {'per token':>12}",
    ]
    for name, sources in manifest.splits.items():
        for source, held in sources.items():
            if split in (None, name):
                lines.append(
                    f"{name:<10} {source:<20} {len(held.shards):>7,} {held.documents:>12,} {held.tokens:>16,} "
                    f"{held.bytes:>16,} {held.bytes / max(held.tokens, 1):>12.3f}"
                )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m groundup.shard.inspect", description="Show what a data folder holds."
    )
    parser.add_argument("folder", help="a data folder or its URL")
    parser.add_argument("--split", help="only this split")
    given = parser.parse_args(arguments)
    return answered(lambda: print(summary(given.folder, given.split)) or 0)


if __name__ == "__main__":
    sys.exit(main())
