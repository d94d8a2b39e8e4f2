"""Masked language modelling: what is hidden, how, and how much of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.data.masking import Masked
from groundup.data.pieces import words
from groundup.data.step import IGNORED
from groundup.tokenizer.byte import Bytes

MASK, END = 257, Bytes.end
BERT = Masked(seed=3, share=0.15, masked=0.8, random=0.1, mask=MASK, vocabulary=257, end=END)
WHOLE = dataclasses.replace(BERT, words=words(Bytes()))


@given(st.integers(0, 2**62), st.integers(0, 600))
def test_so_many_are_predicted_as_the_share_says_and_one_at_least(sample, filled):
    (count,) = BERT.targets(np.array([sample]), np.array([filled]))
    assert count == (max(1, round(0.15 * filled)) if filled else 0)


@pytest.mark.parametrize("view", [BERT, WHOLE], ids=["tokens", "words"])
@pytest.mark.parametrize("document_mask", [True, False])
def test_targets_are_what_stood_there_and_nothing_else_changes(view, document_mask, window, sentences):
    rows, filled = sentences(12, 40), [40, 39, 20, 7, 3, 2, 1, 0, 40, 40, 12, 40]
    batch = window(view, rows, filled, document_mask=document_mask)
    tokens, targets = batch.tokens_BT.numpy(), batch.targets_BT.numpy()
    predicted = targets != IGNORED
    assert predicted.sum(axis=1).tolist() == view.targets(np.arange(12), np.array(filled)).tolist()
    assert (targets[predicted] == rows[:, :-1][predicted]).all()
    assert not predicted[np.arange(40) >= np.array(filled)[:, None]].any()
    if view is BERT:
        assert (tokens == rows[:, :-1])[~predicted].all()
    padding = np.arange(40) >= np.array(filled)[:, None]
    assert (tokens == rows[:, :-1])[padding].all()


def test_the_hidden_are_masked_replaced_or_kept_in_their_shares(window, sentences):
    rows = sentences(400, 100)
    batch = window(BERT, rows)
    hidden = batch.targets_BT.numpy() != IGNORED
    shown, before = batch.tokens_BT.numpy()[hidden], rows[:, :-1][hidden]
    n = hidden.sum()
    assert n == 400 * 15
    # A replacement is by chance what stood there once in 257 times.
    for share, found in ((0.8, shown == MASK), (0.1 + 0.1 / 257, shown == before)):
        assert abs(found.sum() - share * n) < 4.5 * np.sqrt(share * (1 - share) * n)
    others = shown[(shown != MASK) & (shown != before)]
    assert len(set(others.tolist())) > 200, "they are of the whole vocabulary"
    assert others.max() < 257


def test_all_positions_are_about_equally_likely_to_be_hidden(window):
    rows = np.full((3000, 21), 7)
    counts = (window(BERT, rows).targets_BT.numpy() != IGNORED).sum(axis=0)
    assert counts.sum() == 3000 * 3
    assert (abs(counts - 450) < 4.5 * np.sqrt(3000 * 0.15 * 0.85)).all()


def test_whole_words_are_hidden_whole(window, sentences):
    view = dataclasses.replace(WHOLE, masked=1.0, random=0.0)
    rows = sentences(60, 80)
    batch = window(view, rows)
    hidden = batch.tokens_BT.numpy() == MASK
    predicted = batch.targets_BT.numpy() != IGNORED
    word = view.words.begin(rows[:, :-1]).cumsum(axis=1)
    partly = 0
    for row in range(60):
        assert hidden[row][predicted[row]].all()
        touched = np.unique(word[row][predicted[row]])
        assert (np.isin(word[row], touched) == hidden[row]).all()
        unfinished = [w for w in touched if not predicted[row][word[row] == w].all()]
        assert len(unfinished) <= 1, "the last word alone is predicted in part"
        partly += len(unfinished)
    assert partly, "else the law above says nothing"


def test_ends_are_hidden_last(window):
    rows = np.tile([65, END, 66, END, END, 67, END, END, END], (50, 1))
    for share, ends in ((0.3, 0), (0.45, 1)):  # of 8 tokens, 2 and 4, while 3 are no ends
        view = dataclasses.replace(BERT, share=share, masked=1.0, random=0.0)
        batch = window(view, rows)
        found = (batch.targets_BT == END).sum(dim=1)
        assert found.tolist() == [ends] * 50


def test_padding_is_a_document_of_its_own(window, sentences):
    rows = sentences(3, 24)
    for document_mask in (True, False):
        batch = window(BERT, rows, [24, 10, 0], document_mask=document_mask)
        documents = batch.documents_BT.numpy()
        assert not set(documents[1, :10]) & set(documents[1, 10:])
        assert (np.diff(documents, axis=1) >= 0).all()
        if not document_mask:
            assert documents[0].tolist() == [0] * 24
            assert batch.positions_BT[0].tolist() == list(range(24))
    assert window(BERT, rows, [24, 24, 0], document_mask=False).documents_BT is None, "there is nothing to tell apart"
