"""Denoising of whole texts: the target is the window, the source has its noise and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from groundup.data.denoising import Denoise
from groundup.data.pieces import sentence_ends
from groundup.data.step import IGNORED
from groundup.tokenizer.byte import Bytes

MASK, END = 257, Bytes.end
BART = Denoise(seed=4, share=0.3, mean=3.0, mask=MASK, end=END, sentence_ends=sentence_ends(Bytes()))
INFILLED = dataclasses.replace(BART, sentence_ends=None)
FILLED = [0, 1, 2, 5, 20, 63, 64, 64]


def source_of(batch, row):
    """Tokens of a row's source and their documents, without padding."""
    documents = batch.source_documents_BS[row].numpy()
    return batch.source_BS[row].numpy()[documents >= 0].tolist(), documents[documents >= 0].tolist()


@pytest.mark.parametrize("document_mask", [True, False])
def test_the_target_is_the_window(document_mask, window, sentences):
    rows, filled = sentences(40, 64), FILLED * 5
    batch = window(BART, rows, filled, document_mask=document_mask)
    for row, length in enumerate(filled):
        assert batch.targets_BT[row, :length].tolist() == rows[row, :length].tolist()
        assert (batch.targets_BT[row, length:] == IGNORED).all()
        assert batch.tokens_BT[row, :length].tolist() == [END, *rows[row, :length]][:length]
        if document_mask and length:
            documents = (rows[row, :length] == END).cumsum().tolist()
            assert batch.documents_BT[row, :length].tolist() == [documents[0], *documents[:-1]]


def test_what_is_left_stands_in_its_order_between_masks(window, sentences):
    rows = sentences(60, 64)
    batch = window(INFILLED, rows)
    hidden_tokens = 0
    for row in range(60):
        source, _ = source_of(batch, row)
        assert len(source) <= 64
        left = [token for token in source if token != MASK]
        text = rows[row, :64].tolist()
        remaining = iter(text)
        assert all(token in remaining for token in left), "it is a part of the text in its order"
        hidden = len(text) - len(left)
        assert hidden == round(0.3 * sum(token != END for token in text))
        assert left.count(END) == text.count(END)
        hidden_tokens += hidden
    assert 0.28 < hidden_tokens / (60 * 64) < 0.3


def test_spans_have_the_lengths_of_poissons_law(window):
    rows = np.tile(np.arange(1, 202) % 250, (200, 1))
    batch = window(INFILLED, rows)
    masks = (batch.source_BS == MASK).sum(dim=1).double()
    # 60 tokens hidden in spans of 3 on average: 20 of them, a renewal process with variance 20 / 3; the last is cut.
    assert 19.5 < masks.mean() < 21.5
    assert abs(float(masks.var()) - 20 / 3) < 2.5


def test_spans_of_no_length_add_a_mask(window):
    # Nearly all are empty: there is a mask for each, as many as there is room for.
    view = dataclasses.replace(INFILLED, mean=0.05)
    batch = window(view, np.tile(np.arange(1, 42), (20, 1)))
    for row in range(20):
        source, _ = source_of(batch, row)
        assert len(source) == 40
        assert source.count(MASK) == 12


def test_a_mask_may_stand_between_neighbours(window):
    batch = window(INFILLED, np.tile(np.arange(1, 102), (100, 1)))
    found = 0
    for row in range(100):
        source, _ = source_of(batch, row)
        found += sum(
            b == MASK and c == a + 1 for a, b, c in zip(source, source[1:], source[2:], strict=False) if a != MASK
        )
    # Of 11 spans or so in each row one in twenty is empty; a few stand beside others.
    assert 20 < found < 80


@pytest.mark.parametrize("document_mask", [True, False])
def test_sentences_are_permuted_within_their_document(document_mask, window, sentences):
    view = dataclasses.replace(BART, share=0.001)  # of 64 tokens nothing
    rows = sentences(40, 64)
    batch = window(view, rows, document_mask=document_mask)
    changed = 0
    for row in range(40):
        source, documents = source_of(batch, row)
        text, of = rows[row, :64], (rows[row, :64] == END).cumsum()
        if document_mask:
            assert documents == of.tolist()
        for document in np.unique(of):
            before = bytes(token for token in text[of == document] if token != END)
            after = bytes(token for token in np.array(source)[of == document] if token != END)
            assert is_permuted(cut(before), after)
            changed += before != after
        assert (np.array(source) == END).tolist() == (text == END).tolist()
    assert changed > 20


def test_all_orders_of_a_documents_sentences_are_equally_likely(window):
    view = dataclasses.replace(BART, share=0.001)
    rows = np.tile([*b"x.", END, *b"a.b?c!", END, *b"y"], (1200, 1))
    batch = window(view, rows)
    orders, counts = np.unique(batch.source_BS.numpy(), axis=0, return_counts=True)
    assert len(orders) == 6
    assert (abs(counts - 200) < 4.5 * np.sqrt(1200 * 5 / 36)).all()


def cut(text: bytes) -> list[bytes]:
    """Sentences, each with its stop."""
    found, current = [], b""
    for number in text:
        current += bytes([number])
        if number in b".!?":
            found.append(current)
            current = b""
    return [*found, current] if current else found


def is_permuted(parts: list[bytes], text: bytes) -> bool:
    """Whether the text is these parts in some order."""
    if not parts:
        return not text
    others = ((part, parts[:number] + parts[number + 1 :]) for number, part in enumerate(parts))
    return any(text.startswith(part) and is_permuted(rest, text[len(part) :]) for part, rest in others)


def test_a_span_never_hides_parts_of_two_documents(window):
    rows = np.tile([1, 2, 3, END, 4, END, 5, 6, 7, 8, END, 9, 10, 11, 12, END, 13], (200, 1))
    view = dataclasses.replace(INFILLED, share=0.95, mean=50.0)
    batch = window(view, rows)
    of = (rows[0, :16] == END).cumsum()
    for row in range(200):
        source, documents = source_of(batch, row)
        for document in range(5):
            here = [token for token, d in zip(source, documents, strict=True) if d == document]
            text = rows[0, :16][of == document].tolist()
            left = [token for token in here if token != MASK]
            assert set(left) <= set(text)
            assert (MASK in here) >= (len(left) < len(text)), "what is hidden has a mask in its document"
            assert here.count(MASK) <= 2
