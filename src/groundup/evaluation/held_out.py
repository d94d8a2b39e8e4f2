"""Questions made from held-out text: a sentence's last word, and which of four continuations is the true one.

They need no network and no licence, and they ask about the text that a model was trained on the rest of. The first is
LAMBADA's form (Paperno et al. 2016), the second HellaSwag's (Zellers et al. 2019) without its adversaries. Texts of
scripts that set no spaces between words give no questions. It knows texts alone, neither models nor lm-eval.
"""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groundup.core.files import atomic_write
from groundup.core.keyed import derive

FOLDER = "evaluation"
"""The folder of a data folder where they stand."""

CLOZE, CONTINUATION = "held_out_cloze", "held_out_continuation"
NAMES = (CLOZE, CONTINUATION)
DOCUMENTS = 100
"""Of each source, from which questions are made: those whose keyed hashes are the least."""

LONGEST = 20_000
"""Characters of a document that are looked at; so much of each is kept in memory."""

BEFORE, AFTER, CHOICES = 40, 15, 4
"""Words before a question, words of a continuation, and continuations to choose among."""

_WORD = re.compile(r"\S+")
_LAST = re.compile(r"(?<=\S )\w[\w'’-]+(?=[.!?;:])")


class HeldOutItems:
    """Takes held-out documents one at a time and keeps a bounded choice of them.

    Args:
        seed: names the choice.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._kept: dict[str, list[tuple[int, str, str]]] = {}

    def add(self, source: str, fingerprint: str, text: str) -> None:
        """Take a document; the same ones give the same questions in any order."""
        kept = self._kept.setdefault(source, [])
        item = (-derive(self._seed, "document", fingerprint), fingerprint, text[:LONGEST])
        if item[:2] in ((rank, name) for rank, name, _ in kept):
            return
        (heapq.heappush if len(kept) < DOCUMENTS else heapq.heappushpop)(kept, item)

    def write(self, folder: Path) -> list[str]:
        """Write the questions as JSON lines.

        Returns:
            names of the files, below `folder`; of a kind of which there is no question, none.

        Raises:
            StorageError: they cannot be written.
        """
        files = []
        for name, make in ((CLOZE, self._clozes), (CONTINUATION, self._continuations)):
            items = [item for source in self._kept for item in make(source)]
            if items:  # in no order of sources, so that the first so many are of all
                items.sort(key=lambda item: derive(self._seed, "order", item["document"]))
                files.append(f"{FOLDER}/{name}.jsonl")
                lines = (json.dumps(item, ensure_ascii=False) for item in items)
                atomic_write(folder / files[-1], "".join(f"{line}\n" for line in lines))
        return files

    def _documents(self, source: str) -> list[tuple[str, str]]:
        return [(name, text) for _, name, text in sorted(self._kept[source], reverse=True)]

    def _clozes(self, source: str) -> Iterator[dict[str, Any]]:
        for name, text in self._documents(source):
            starts = [match.start() for match in _WORD.finditer(text)]
            if len(starts) <= BEFORE:
                continue
            ends = [match for match in _LAST.finditer(text) if match.start() > starts[BEFORE]]
            if ends:
                end = ends[self._draw(len(ends), name, "cloze")]
                first = sum(start < end.start() for start in starts) - BEFORE
                context = text[starts[first] : end.start() - 1]
                yield {"source": source, "document": name, "context": context, "word": end.group()}

    def _continuations(self, source: str) -> Iterator[dict[str, Any]]:
        documents = self._documents(source)
        spans = [[match.span() for match in _WORD.finditer(text)] for _, text in documents]
        cuts = [_cuts(text, found, BEFORE) for (_, text), found in zip(documents, spans, strict=True)]
        usable = [number for number, found in enumerate(cuts) if found]
        if len(usable) < CHOICES:
            return
        for place, number in enumerate(usable):
            name, text = documents[number]
            others = usable[place + 1 :] + usable[:place]
            begin = self._draw(len(others), name, "others")
            chosen = (others[begin:] + others[:begin])[: CHOICES - 1]
            cut = cuts[number][self._draw(len(cuts[number]), name, "cut")]
            choices = [_after(text, spans[number], cut)]
            for other in chosen:
                found = cuts[other]
                choices.append(
                    _after(documents[other][1], spans[other], found[self._draw(len(found), name, "false", other)])
                )
            if len(set(choices)) < CHOICES:
                continue
            gold = self._draw(CHOICES, name, "gold")
            choices.insert(gold, choices.pop(0))
            context = text[spans[number][cut - BEFORE][0] : spans[number][cut - 1][1]]
            yield {"source": source, "document": name, "context": context, "choices": choices, "gold": gold}

    def _draw(self, many: int, *keys: str | int) -> int:
        return derive(self._seed, *keys) % many


def _cuts(text: str, spans: list[tuple[int, int]], before: int) -> list[int]:
    """Numbers of the words at which a continuation may begin: one space before, enough words on both sides."""
    return [i for i in range(before, len(spans) - AFTER + 1) if text[spans[i - 1][1] : spans[i][0]] == " "]


def _after(text: str, spans: list[tuple[int, int]], cut: int) -> str:
    return text[spans[cut][0] : spans[cut + AFTER - 1][1]]
