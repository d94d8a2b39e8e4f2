"""One line of a file of examples: its texts and its answer, checked; how they are stored is not known here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import ConfigError, DataError, nearest
from groundup.data.config import Examples
from groundup.tokenizer.protocol import Tokenizer

LARGEST = 1e100
"""Scores are smaller than this, so that their squares and sums are numbers too."""

_LABELS = {str: "a string", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True)
class Example:
    """What a line says.

    Attributes:
        texts: the text, and its pair where examples have two.
        answer: the class; the score; or first character of the text that answers and the one behind, None for none.
        right: of a span, all answers that count.
        where: file and line.
        line: its number.
    """

    texts: list[str]
    answer: Any
    right: list[str]
    where: str
    line: int


class Closed(NamedTuple):
    """Classes once all are known: their names in order, and the place in it of each number given before."""

    names: list[str]
    order: NDArray[np.int64]


@dataclass
class Classes:
    """The classes of a file, numbered as they come.

    Attributes:
        numbers: of each class.
        trained: those that have an example to train on.
        elsewhere: where those stand that are met in held-out examples first.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)
    elsewhere: dict[str, str] = field(default_factory=dict)
    whole: bool = True

    def number(self, label: Any, trains: bool, where: str) -> int:
        """The number of a label, which is noted."""
        self.whole = self.whole and isinstance(label, int)
        name = str(label)
        if trains:
            self.trained.add(name)
        else:
            self.elsewhere.setdefault(name, where)
        return self.numbers.setdefault(name, len(self.numbers))

    def close(self) -> Closed:
        """The classes in order: whole numbers by size, others by name.

        Raises:
            DataError: a class that is not trained on, or one class alone.
        """
        for name, where in self.elsewhere.items():
            if name not in self.trained:
                known = ", ".join(sorted(self.trained)[:20])
                what = f"label {name} is none of those that are trained on ({known})"
                raise DataError(where, what, "correct it, or give examples of it to train on")
        if len(self.numbers) == 1:
            raise DataError(f"label {next(iter(self.numbers))}", "is all there is", "give examples of another class")
        names = sorted(self.numbers, key=int if self.whole else str)
        order = np.zeros(len(names), dtype=np.int64)
        for place, name in enumerate(names):
            order[self.numbers[name]] = place
        return Closed(names, order)


class Reader:
    """Makes examples of lines.

    Args:
        data: names the fields.
        task: "classification", "regression" or "span".
    """

    def __init__(self, data: Examples, task: str) -> None:
        self.data, self.task, self.classes = data, task, Classes()
        self._first: tuple[str, str] | None = None

    def example(self, record: Any, where: str, line: int) -> Example:
        """What a line's object says.

        Raises:
            DataError: a field that is missing or of another kind, or an answer that is not where it should be.
        """
        if not isinstance(record, dict):
            raise DataError(where, "is no object", "write one object a line")
        fields = [("text", self.data.text), *([("pair", self.data.pair)] if self.data.pair is not None else [])]
        texts = [self._text(record, key, name, where) for key, name in fields]
        if self.task == "span":
            answer, right = self._span(record, texts[0], where)
            return Example(texts, answer, right, where, line)
        if self.task == "classification":
            return Example(texts, self._label(record, where), [], where, line)
        return Example(texts, self._score(record, where), [], where, line)

    def _text(self, record: dict[str, Any], key: str, name: str, where: str) -> str:
        text = _field(record, name, f"data.{key}", where)
        if not isinstance(text, str):
            raise DataError(where, f"field {name} is no text but {_kind(text)}", f"give data.{key}=FIELD")
        if not text.strip():
            raise DataError(where, f"field {name} is empty", "correct the line, or leave it out")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(where, f"holds a lone surrogate ({error.reason})", "correct the line") from None
        return text

    def _label(self, record: dict[str, Any], where: str) -> str | int:
        name = self.data.label
        label = _field(record, name, "data.label", where)
        if label == "":
            raise DataError(where, f"label in field {name} is empty", "correct the line, or leave it out")
        if not isinstance(label, str | int):
            remedy = "set objective.task=regression data.score=FIELD" if isinstance(label, float) else "correct it"
            raise DataError(where, f"label in field {name} is no string or whole number but {_kind(label)}", remedy)
        self._expect_one_kind(label, where)
        return str(label).lower() if isinstance(label, bool) else label

    def _expect_one_kind(self, label: str | int, where: str) -> None:
        """Whether 1 and "1" are one class is not for us to say."""
        kind = _LABELS[type(label)]
        known, first = self._first = self._first or (kind, where)
        if kind != known:
            what = f"label in field {self.data.label} is {kind}, and that of {first} {known}"
            raise DataError(where, what, "write all labels in one way")

    def _score(self, record: dict[str, Any], where: str) -> float:
        name = self.data.score
        score = _field(record, name, "data.score", where)
        if isinstance(score, int | float) and not isinstance(score, bool) and not abs(score) < LARGEST:
            raise DataError(where, f"score in field {name} is not finite, or beyond 1e100", "correct the line")
        if isinstance(score, bool) or not isinstance(score, int | float):
            what = f"score in field {name} is no number but {_kind(score)}"
            raise DataError(where, what, "for classes set objective.task=classification data.label=FIELD")
        return float(score)

    def _span(self, record: dict[str, Any], text: str, where: str) -> tuple[tuple[int, int] | None, list[str]]:
        starts = _list(_field(record, self.data.start, "data.start", where))
        if not starts:
            return None, []
        if self.data.end is not None:
            ends = _list(_field(record, self.data.end, "data.end", where))
            right = []
        else:
            right = _list(_field(record, self.data.answer, "data.answer", where))
            if not all(isinstance(answer, str) and answer for answer in right):
                remedy = "give data.answer=FIELD or data.end=FIELD"
                raise DataError(where, f"field {self.data.answer} is no text", remedy)
            ends = [s + len(a) if isinstance(s, int) else s for s, a in zip(starts, right, strict=False)]
        if len(starts) != len(ends):
            raise DataError(where, f"has {len(starts)} starts and {len(ends)} answers", "give one of each an answer")
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            whole = all(isinstance(place, int) and not isinstance(place, bool) for place in (start, end))
            if not whole or not 0 <= start < end <= len(text):
                what = f"start {start} and end {end} are no characters of a text of {len(text)}"
                raise DataError(where, what, "count from 0; end is the one behind the answer")
            if right and text[start:end] != right[number]:
                what = f"the text has {text[start:end]!r} at start={start} and not the answer {right[number]!r}"
                raise DataError(where, what, "count characters from 0, or correct the answer")
        spans = [text[start:end] for start, end in zip(starts, ends, strict=True)]
        return (starts[0], ends[0]), list(dict.fromkeys(spans))


class Alignment:
    """Where characters of a text stand among its tokens, by the bytes that each token stands for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._lengths = tokenizer.byte_lengths()
        self._lead = int(bool(tokenizer.card().get("adds_space")))

    def tokens(self, example: Example, ids: Any) -> tuple[int, int]:
        """First and last token that hold something of the answer, (-1, -1) where there is none.

        Raises:
            DataError: the tokens do not give the text back, so that places in it are not known.
        """
        if example.answer is None:
            return -1, -1
        text, (start, end) = example.texts[0], example.answer
        ends = np.cumsum(self._lengths[ids]) - self._lead
        if not len(ends) or int(ends[-1]) != len(text.encode()):
            what = "the tokenizer does not give the text back, so places in it are not known among its tokens"
            raise DataError(example.where, what, "take a tokenizer of bytes or BPE, or correct the text")
        first = np.searchsorted(ends, len(text[:start].encode()), side="right")
        return int(first), int(np.searchsorted(ends, len(text[:end].encode()), side="left"))


def check_fields(data: Examples, task: str) -> None:
    """What of the options does not fit the task.

    Raises:
        ConfigError: the end of a span is named for another task.
    """
    if task != "span" and data.end is not None:
        raise ConfigError(f"data.end={data.end}", f"has no meaning with objective.task={task}", "leave it null")


def _field(record: dict[str, Any], name: str, key: str, where: str) -> Any:
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            known = nearest(part, value) if isinstance(value, dict) and value else "it is not an object"
            raise DataError(where, f"has no field {name}", f"give {key}=FIELD; {known}")
        value = value[part]
    return value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
