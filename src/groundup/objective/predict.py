"""Answers of a finished, fine-tuned run to texts, as a plain library: no Lightning, no labels and no log."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.data.labelled import Labelled, Laid
from groundup.data.layout import Layout, Place
from groundup.model import task_head
from groundup.model.load import load
from groundup.objective.answering import answered, best_spans
from groundup.tokenizer.load import load as load_tokenizer

ROWS = 32
"""Texts that are read at once."""


class Predictor:
    """A run that was fine-tuned on examples, opened to answer.

    Args:
        folder: of the run.
        device: where it computes.
        context: tokens that are read of a text and its pair; None: as many as in the run, by which it was measured.

    Raises:
        CheckpointError: network or head is missing or damaged.
        DataError: the tokenizer is.
        ValueError: the network has no positions for so many.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu", context: int | None = None) -> None:
        self.head, self.net = task_head.load(folder).to(device), load(folder, device)
        self.tokenizer, self.task = load_tokenizer(Path(folder) / "tokenizer"), self.head.config
        read = context or self.task.context or self.net.context
        if read > self.net.context:
            raise ValueError(f"context={read} is more than the {self.net.context} positions of the network")
        self.layout = Layout(read, self.tokenizer.end, self.task.task == "span")
        self.device = torch.device(device)
        self._lengths = self.tokenizer.byte_lengths()
        self._lead = int(bool(self.tokenizer.card().get("adds_space")))

    @torch.no_grad()
    def predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, answer_tokens: int | None = None
    ) -> list[dict[str, Any]]:
        """What is answered to each text.

        Args:
            texts: each is cut where it, with its pair, is longer than the context; a warning says how many were.
            pairs: the second text of each, if the run's examples had one.
            answer_tokens: of a span, tokens of the longest answer; None: as in the run, by which it was measured.

        Returns:
            For each text `cut`, its tokens and its pair's that were not read; and of a classification `label`, its
            `probability`, and `probabilities` by class; of a regression `score`; of a span `answer` with `start` and
            `end`, its characters in the text, or an empty one with None.

        Raises:
            ValueError: there are not as many pairs as texts.
        """
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts and {len(pairs)} pairs")
        found: list[dict[str, Any]] = []
        cuts: list[int] = []
        for first in range(0, len(texts), ROWS):
            some = texts[first : first + ROWS]
            ids = self.tokenizer.encode_batch(some)
            seconds = None if pairs is None else self.tokenizer.encode_batch(pairs[first : first + ROWS])
            cuts.extend(self._cut(text, None if seconds is None else seconds[row]) for row, text in enumerate(ids))
            batch, places = self._laid(ids, seconds)
            output = answered(self.net, self.head, batch.to(self.device))
            if self.task.task == "classification":
                found.extend(self._classes(output.softmax(dim=-1)))
            elif self.task.task == "regression":
                scores = output[:, 0] * self.task.deviation + self.task.mean
                found.extend({"score": score} for score in scores.tolist())
            else:
                most = answer_tokens or self.task.answer_tokens
                spans = best_spans(output, batch.text_B2.to(self.device), most).tolist()
                found.extend(map(self._answer, some, ids, spans, places))
        if any(cuts):
            told = (
                f"{sum(map(bool, cuts))} of {len(cuts)} texts do not fit in context={self.layout.context} and are cut"
            )
            warnings.warn(told, stacklevel=3)  # the frame between is that of no_grad
        return [{**answer, "cut": cut} for answer, cut in zip(found, cuts, strict=True)]

    def _cut(self, text: Any, pair: Any | None) -> int:
        """Tokens that are not read."""
        lengths = len(text), None if pair is None else len(pair)
        return lengths[0] + (lengths[1] or 0) - sum(self.layout.kept(*lengths))

    def _laid(self, ids: Sequence[Any], seconds: Sequence[Any] | None) -> tuple[Labelled, list[Place]]:
        tokens = np.zeros((len(ids), self.layout.context), np.int64)
        pairs = [None] * len(ids) if seconds is None else seconds
        places = [self.layout.fill(row, text, pair) for row, text, pair in zip(tokens, ids, pairs, strict=True)]
        lengths, begins = (np.array([place[i] for place in places], np.int64) for i in (0, 1))
        laid = Laid(
            tokens=tokens[:, : lengths.max()],
            lengths=lengths,
            seconds=begins,
            texts=np.array([[place.first_of_text, place.behind_text] for place in places], np.int64),
            answers=np.zeros(len(ids), np.int64),
            numbers=np.arange(len(ids)),
        )
        return laid.batch(), places

    def _classes(self, shares_BC: Tensor) -> list[dict[str, Any]]:
        found = []
        for shares in shares_BC.tolist():
            best = max(range(len(shares)), key=shares.__getitem__)
            named = dict(zip(self.task.classes, shares, strict=True))
            found.append({"label": self.task.classes[best], "probability": shares[best], "probabilities": named})
        return found

    def _answer(self, text: str, ids: Any, span: list[int], place: Place) -> dict[str, Any]:
        if not span[0]:
            return {"answer": "", "start": None, "end": None}
        first, last = (position - place.first_of_text for position in span)
        ends, content = np.cumsum(self._lengths[ids]) - self._lead, text.encode()
        if int(ends[-1]) != len(content):  # the tokenizer does not give the text back
            return {"answer": self.tokenizer.decode(list(ids[first : last + 1])).strip(), "start": None, "end": None}
        start, end = (
            len(content[: max(0, int(edge))].decode("utf-8", "ignore"))
            for edge in (ends[first - 1] if first else 0, ends[last])
        )
        answer = text[start:end]
        start += len(answer) - len(answer.lstrip())
        return {"answer": answer.strip(), "start": start, "end": start + len(answer.strip())}
