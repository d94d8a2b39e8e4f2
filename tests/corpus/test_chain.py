"""Every document is kept or has a reason, and the same text is always on the same side."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.core.errors import ConfigError, DataError
from groundup.core.split import HELD_OUT, TRAIN, side
from groundup.corpus.chain import Chain, Drop
from groundup.corpus.config import Duplicate, Length, Unicode
from groundup.corpus.document import Document
from groundup.corpus.reading import Reading


def documents(*given: str) -> list[Document]:
    return [Document(text, {"name": str(number)}) for number, text in enumerate(given)]


class Listed:
    """A source of given texts."""

    def __init__(self, given: Sequence[str]) -> None:
        self.given = given

    def documents(self) -> Iterator[Document]:
        yield from documents(*self.given)

    def check(self) -> None:
        """Nothing to find."""

    def stamp(self) -> dict[str, Any]:
        return {}


def reading(sources: dict[str, Sequence[str]], seed: int = 0, held_out: float = 0.3) -> Reading:
    steps = {"unicode": Unicode(), "length": Length(), "duplicate": Duplicate()}
    built = {name: Listed(given) for name, given in sources.items()}
    return Reading(built, lambda: {name: step.build() for name, step in steps.items()}, seed, held_out)


def everything(made: Reading) -> list[tuple[str, str, Document]]:
    return [(name, split, document) for name, stream in made.by_source() for split, document in stream]


@given(st.lists(st.text("ab\0 \ud800", max_size=3), max_size=30))
def test_what_goes_in_comes_out_or_is_counted(given: list[str]) -> None:
    chain = Chain({"unicode": Unicode().build(), "length": Length(longest=2).build(), "duplicate": Duplicate().build()})
    kept = [document.text for document in chain.run(documents(*given))]
    assert len(kept) + chain.dropped.total() == len(given)
    assert len(set(kept)) == len(kept)
    assert set(kept) == {t for t in given if not set("\0\ud800") & set(t) and 0 < len(t.strip()) <= 2}


def test_reasons_are_counted_by_step() -> None:
    chain = Chain({"unicode": Unicode().build(), "length": Length(shortest=2, longest=3).build()})
    assert [d.text for d in chain.run(documents("ab", "\ud800", "a\0b", " ", "x ", "long", "abc"))] == ["ab", "abc"]
    assert chain.dropped == {
        ("unicode", "lone surrogate"): 1,
        ("unicode", "NUL character"): 1,
        ("length", "empty"): 1,
        ("length", "shorter than 2 characters"): 1,
        ("length", "longer than 3 characters"): 1,
    }


def test_a_step_may_change_a_document() -> None:
    def shout(document: Document) -> Document | Drop:
        return Document(document.text.upper(), document.origin)

    chain = Chain({"shout": shout, "duplicate": Duplicate().build()})
    assert [d.text for d in chain.run(documents("a", "A", "b"))] == ["A", "B"]


def test_bounds_that_exclude_everything_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"longest=2: is below shortest=3"):
        Length(shortest=3, longest=2)


@given(
    st.lists(st.text(min_size=1, max_size=5).filter(lambda t: t.strip() and "\0" not in t), min_size=1), st.integers()
)
def test_a_text_is_on_the_same_side_in_any_order_and_source(given: list[str], seed: int) -> None:
    sides = [side(document.fingerprint, seed, 0.5) for document in documents(*given)]
    assert sides[::-1] == [side(document.fingerprint, seed, 0.5) for document in documents(*given[::-1])]
    by_text = dict(zip(given, sides, strict=True))
    assert [by_text[text] for text in given] == sides


def test_about_the_fraction_is_held_out_and_more_holds_out_more() -> None:
    marks = [document.fingerprint for document in documents(*map(str, range(20_000)))]
    few = {mark for mark in marks if side(mark, 1, 0.05) == HELD_OUT}
    more = {mark for mark in marks if side(mark, 1, 0.2) == HELD_OUT}
    other = {mark for mark in marks if side(mark, 2, 0.05) == HELD_OUT}
    assert few < more
    assert abs(len(few) / 20_000 - 0.05) < 0.01
    assert abs(len(more) / 20_000 - 0.2) < 0.015
    assert len(few & other) < 150
    assert not any(side(mark, 1, 0.0) == HELD_OUT for mark in marks)


def test_a_pass_tells_source_and_split_and_can_be_made_again() -> None:
    made = reading({"a": [str(i) for i in range(100)], "b": ["5", "x", "", "y"] + ["z" * i for i in range(1, 60)]})
    first = everything(made)
    assert first == everything(made)
    assert [name for name, _, _ in first] == ["a"] * 100 + ["b"] * 61
    tally = made.tallies["b"]
    assert tally.dropped == Counter({("duplicate", "exact duplicate"): 1, ("length", "empty"): 1})
    assert tally.documents.total() == 61
    assert tally.bytes.total() == 2 + sum(range(1, 60))
    assert list(made.train_texts()) == [d.text for _, split, d in first if split == TRAIN]


def test_a_copy_is_dropped_from_the_later_source() -> None:
    a, b = [str(i) for i in range(20)], [str(i) for i in range(10, 40)]
    for order in ({"a": a, "b": b}, {"b": b, "a": a}):
        made = reading(order)
        everything(made)
        assert [tally.documents.total() for tally in made.tallies.values()] == [
            len(order[next(iter(order))]),
            40 - len(order[next(iter(order))]),
        ]


@pytest.mark.parametrize(
    ("sources", "held_out", "says"),
    [
        ({"a": ["x", "y"], "b": []}, 0.5, r"source\.b: holds no document"),
        ({"a": ["x", "y"], "b": ["x", " "]}, 0.5, r"source\.b: every document was dropped: 1 exact duplicate, 1 empty"),
        ({"a": ["x"]}, 1e-9, r"held_out=1e-09: holds out none of 1 documents; .*paragraph"),
        ({"a": ["x"]}, 0.999999, r"held_out=0.999999: leaves none of the 1 documents of a; "),
    ],
)
def test_an_empty_source_or_split_is_an_error(sources: dict[str, list[str]], held_out: float, says: str) -> None:
    with pytest.raises(DataError, match=says):
        everything(reading(sources, held_out=held_out))


def test_without_a_held_out_fraction_everything_is_for_training() -> None:
    made = reading({"a": ["x"]}, held_out=0.0)
    assert [split for _, split, _ in everything(made)] == [TRAIN]
