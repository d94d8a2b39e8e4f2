"""Statistics of samples against slow definitions of them, and that the training text is streamed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.evaluation.samples import (
    Sample,
    copied_ngrams,
    distinct_share,
    examine,
    split,
    word_validity,
    words,
)

WORDS = st.lists(st.sampled_from("abcde"), max_size=12)


def naive_ngrams(sequence: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(sequence[i : i + n]) for i in range(len(sequence)) if i + n <= len(sequence)}


@given(st.lists(WORDS, max_size=4), st.lists(WORDS, max_size=4), st.integers(1, 5))
def test_copies_are_the_ngrams_that_both_have(samples: list[list[str]], texts: list[list[str]], n: int) -> None:
    found = copied_ngrams(samples, (" ".join(text) for text in texts), n)
    mine = set().union(*(naive_ngrams(sample, n) for sample in samples))
    theirs = set().union(*(naive_ngrams(text, n) for text in texts))
    assert {tuple(gram.split()) for gram in found} == mine & theirs
    assert len(found) == len(set(found))


@given(st.lists(WORDS, max_size=4), st.integers(1, 4))
def test_the_distinct_share_is_distinct_over_all(samples: list[list[str]], n: int) -> None:
    every = [tuple(s[i : i + n]) for s in samples for i in range(len(s) - n + 1)]
    share = distinct_share(samples, n)
    assert math.isnan(share) if not every else share == len(set(every)) / len(every)


def test_a_loop_has_few_distinct_ngrams_and_plain_text_has_all() -> None:
    assert distinct_share([["the", "lord"] * 50], 4) == pytest.approx(2 / 97)
    assert distinct_share([list("abcdefgh")], 4) == 1.0


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert words("He said: “Don't go, O King—” x_1 12") == ["he", "said", "don't", "go", "o", "king", "x_1", "12"]
    share, missing = word_validity(["don't", "gx", "king", "gx"], iter(["KING, don't!", "other"]))
    assert share == 0.5 and missing == ("gx",)
    assert math.isnan(word_validity([], [])[0])


def test_a_word_the_model_finished_is_its_own_and_one_the_limit_cut_is_nobodys() -> None:
    assert split(Sample("In the begin", "ning God cre")) == (["in", "the"], ["beginning", "god"])
    assert split(Sample("In the", " end.")) == (["in", "the"], ["end"])
    assert split(Sample("In the", "")) == (["in", "the"], [])
    assert split(Sample("", "")) == ([], [])


def test_an_ngram_from_the_prompt_into_the_text_is_copied_and_the_prompt_alone_is_not() -> None:
    training = ["one two three four five six"]
    assert examine([Sample("one two three", " four. No")], training, copied_n=4).copied == ("one two three four",)
    assert examine([Sample("one two three four five", " else. No")], training, copied_n=4).copied == ()


def test_one_pass_gives_what_the_three_functions_give() -> None:
    samples = [Sample("a", " b c zz a b c. x"), Sample("q", " c c c c c. x")]
    training = ["A b c a b", "c c c"]
    found = examine(samples, iter(training), distinct_n=2, copied_n=3)
    wrote = [split(sample)[1] for sample in samples]
    spoken = [word for own in wrote for word in own]
    assert (found.valid, found.invalid) == word_validity(spoken, training)
    assert found.distinct == distinct_share(wrote, 2) and found.words == len(spoken)
    assert set(found.copied) == {"c c c", "a b c"}


def test_the_training_text_is_read_once_and_not_kept() -> None:
    alive: list[int] = []

    class Text(str):
        def __init__(self, *_: object) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    most = 0

    def texts() -> Iterator[str]:
        nonlocal most
        for number in range(100):
            most = max(most, len(alive))
            yield Text(f"word{number} and more")

    found = examine([Sample("", "word7 and nothing. x")], texts())
    assert found.valid == pytest.approx(2 / 3) and most <= 2


def test_nothing_written_gives_no_share() -> None:
    found = examine([Sample("Only a prompt", "")], ["some text"])
    assert found.words == 0 and math.isnan(found.valid) and math.isnan(found.distinct) and found.copied == ()
