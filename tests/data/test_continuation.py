"""Prefix LMs of two stacks: the same tokens are predicted as by a decoder, from the same ones."""

from __future__ import annotations

import numpy as np

from groundup.data.continuation import Continuation
from groundup.data.step import IGNORED
from groundup.data.view import Split
from groundup.tokenizer.byte import Bytes

END = Bytes.end
VIEW = Continuation(Split(5), END)


def test_the_source_is_given_and_the_rest_is_predicted(window, sentences):
    rows, filled = sentences(40, 32), np.tile([0, 1, 2, 31, 32], 8)
    batch = window(VIEW, rows, filled, document_mask=False)
    given = VIEW.split.given(np.arange(40), filled)
    for row, (length, first) in enumerate(zip(filled, given, strict=True)):
        source = batch.source_BS[row][batch.source_documents_BS[row] >= 0].tolist()
        target = batch.targets_BT[row][batch.targets_BT[row] != IGNORED].tolist()
        if length:
            assert (source, target) == (rows[row, :first].tolist(), rows[row, first : length + 1].tolist())
        else:
            assert (source, target) == ([END], [])


def test_the_same_tokens_are_predicted_as_by_a_decoder_with_a_prefix(window, sentences):
    rows = sentences(20, 32)
    one, two = window(Split(5), rows), window(VIEW, rows)
    for row in range(20):
        predicted = [batch.targets_BT[row][batch.targets_BT[row] != IGNORED].tolist() for batch in (one, two)]
        assert predicted[0] == predicted[1]


def test_a_document_that_begins_behind_the_source_has_its_end_as_source(window):
    rows = np.array([[1, END, 2, 3, 4, END, 5, END, 6]] * 30)
    batch = window(VIEW, rows)
    given = VIEW.split.given(np.arange(30), np.full(30, 8))
    for row, first in enumerate(given):
        later = [place for place in (1, 5, 7) if place >= first]
        real = batch.source_documents_BS[row] >= 0
        assert batch.source_BS[row][real].tolist() == [*rows[row, :first], *[END] * len(later)]
        documents = (rows[row, :8] == END).cumsum()
        assert batch.source_documents_BS[row][real].tolist() == [*documents[:first], *documents[later]]
        assert batch.documents_BT[row, : 9 - first].tolist() == documents[first - 1 :].tolist()
    assert len(set(given)) > 3
