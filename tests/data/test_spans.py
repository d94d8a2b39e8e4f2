"""Span corruption, alone and mixed: nothing is lost, nothing is said twice, and documents stay apart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from groundup.data.counts import Corruption
from groundup.data.spans import Spans
from groundup.data.step import IGNORED
from groundup.model.config import EncoderDecoder
from groundup.objective.config import Denoise, Prefix, Span, Ul2
from groundup.tokenizer.byte import Bytes

END, SENTINELS = Bytes.end, 20
FIRST = 257 + SENTINELS - 1
T5 = Spans(seed=2, corruption=Corruption(0.15, 3.0, SENTINELS), first=FIRST, end=END)
UL2 = Ul2(sentinels=SENTINELS).view(2, Bytes(), EncoderDecoder())
R, S, X = 277, 278, 279
FILLED = [0, 1, 2, 3, 5, 20, 63, 64]


def parts(batch, row):
    """Source and target of a row without their padding, and the documents of the source."""
    documents, target = batch.source_documents_BS[row].numpy(), batch.targets_BT[row].numpy()
    source = batch.source_BS[row].numpy()[documents >= 0]
    return source.tolist(), target[target != IGNORED].tolist(), documents[documents >= 0].tolist()


def joined(source, target, whole=True):
    """The text that a source with sentinels and a target came from."""
    hidden: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token >= 257:
            hidden[token] = []
        else:
            hidden[next(reversed(hidden))].append(token)
    assert list(hidden) == [FIRST - number for number in range(len(hidden))]
    assert source[-1] == END
    assert target[-1:] in ([END], [])
    assert [token for token in source if token >= 257] == list(hidden) or not whole
    return [t for token in source[:-1] for t in hidden.get(token, [token])]


@pytest.mark.parametrize("document_mask", [True, False])
@pytest.mark.parametrize("corruption", [T5.corruption, Corruption(0.5, 1.0, 4), Corruption(0.9, 8.0, 20)])
def test_source_and_target_together_are_the_window(corruption, document_mask, window, sentences):
    view = Spans(2, corruption, FIRST, END)
    rows = sentences(48, 64)
    filled = FILLED * 6
    batch = window(view, rows, filled, document_mask=document_mask)
    for row, length in enumerate(filled):
        source, target, _ = parts(batch, row)
        assert joined(source, target) == rows[row, :length].tolist()
        assert len(target) == view.targets(np.array([row]), np.array([length]))[0]
        assert bool(target) == (length >= 2)


def test_so_much_is_hidden_in_so_many_spans_as_the_authors_say(window, sentences):
    batch = window(T5, sentences(20, 64))
    for row in range(20):
        _, target, _ = parts(batch, row)
        sentinels = sum(token >= 257 for token in target)
        assert (sentinels, len(target) - 1 - sentinels) == (3, 10)  # 0.15 * 64 = 9.6, 10 / 3 = 3.3


def test_all_ways_to_hide_are_equally_likely(window):
    # Of 6 tokens 3 in 2 spans: what is left has 2 ways to be parted, and so has what is hidden.
    view = Spans(0, Corruption(0.5, 1.5, 9), FIRST, END)
    batch = window(view, np.tile(np.arange(1, 8), (2000, 1)))
    _, counts = np.unique(batch.source_BS.numpy(), axis=0, return_counts=True)
    assert len(counts) == 4
    assert (abs(counts - 500) < 4.5 * np.sqrt(2000 * 3 / 16)).all()


def test_the_decoder_reads_end_and_then_what_it_wrote(window, sentences):
    for view in (T5, UL2):
        batch = window(view, sentences(16, 64))
        for row in range(16):
            _, target, _ = parts(batch, row)
            assert batch.tokens_BT[row, : len(target)].tolist() == [END, *target[:-1]]
            assert (batch.tokens_BT[row, len(target) :] == END).all()
            assert (batch.targets_BT[row, len(target) :] == IGNORED).all()


def test_a_span_is_of_the_document_of_its_first_token(window, sentences):
    rows = sentences(40, 64)
    batch = window(T5, rows)
    documents = (rows[:, :-1] == END).cumsum(axis=1)
    several = 0
    for row in range(40):
        source, target, source_documents = parts(batch, row)
        lengths = {token: 0 for token in target if token >= 257}
        current = FIRST
        for token in target[:-1]:
            current = token if token >= 257 else current
            lengths[current] += token < 257
        place, expected, of_sentinel = 0, [], {}
        for token in source[:-1]:
            expected.append(documents[row, place])
            of_sentinel[token] = documents[row, place]
            place += lengths.get(token, 1)
        assert source_documents == [*expected, expected[-1]]
        read, current = [of_sentinel[FIRST]], FIRST
        for token in target[:-1]:
            current = token if token >= 257 else current
            read.append(of_sentinel[current])
        assert batch.documents_BT[row, : len(target)].tolist() == read[: len(target)]
        several += len(set(read)) > 1
    assert several, "else the law above says nothing"


def test_each_denoiser_is_drawn_about_equally_often_and_its_mode_stands_first(window, sentences):
    counts = np.bincount(UL2.denoisers(np.arange(7000)), minlength=7)
    assert counts.sum() == 7000
    assert (abs(counts - 1000) < 4.5 * np.sqrt(7000 * 6 / 49)).all()
    batch = window(UL2, sentences(40, 64))
    expected = np.array([R, R, X, X, X, X, S])[UL2.denoisers(np.arange(40))]
    assert batch.source_BS[:, 0].tolist() == expected.tolist()


def test_what_any_denoiser_hides_can_be_put_back(window, sentences):
    rows, filled = sentences(160, 64), np.tile(FILLED, 20)
    batch = window(UL2, rows, filled, document_mask=False)
    for row, length in enumerate(filled):
        (mode, *source), target, _ = parts(batch, row)
        text = source + target if mode == S else joined(source, target)
        assert text == rows[row, :length].tolist()


def test_every_document_of_a_window_sees_the_mode(window, sentences):
    """And nothing else is changed: one behind the first stands for the `end` that opens a document, or for nothing."""
    rows = sentences(300, 64)
    batch, modes = window(UL2, rows), np.array([R, R, X, X, X, X, S])[UL2.denoisers(np.arange(300))]
    taken = added = 0
    for row, mode in enumerate(modes):
        source, target, documents = parts(batch, row)
        begins = [at for at in range(len(source)) if not at or documents[at] != documents[at - 1]]
        assert [at for at, token in enumerate(source) if token >= R] == begins
        assert {source[at] for at in begins} == {mode}
        read = batch.documents_BT[row, : len(target)].tolist()
        assert set(read) <= set(documents), "what is written is written from a source with its mode"
        if mode == S:
            taken += len(begins) - 1
            continue
        opened = {sentinel for sentinel, first in pairwise(target) if sentinel >= 257 and first == END}
        plain = [source[1]]
        for at in range(2, len(source)):
            if source[at] != mode:
                plain.append(source[at])
            elif source[at + 1] in opened or rows[row, len(joined([*plain, END], target, whole=False))] != END:
                added += 1
            else:
                plain.append(END)
                taken += 1
        assert joined(plain, target) == rows[row, :64].tolist()
    assert taken > 20 and added > 20, "else the law above says little"


def test_a_window_of_the_shortest_documents_has_room_for_the_modes_it_can_hold(window):
    draw = np.random.default_rng(0)
    rows = np.where(draw.random((400, 65)) < 0.5, END, 97)
    batch = window(UL2, rows)
    assert batch.source_BS.shape[1] == 64
    several = [sum(token >= R for token in parts(batch, row)[0]) > 1 for row in range(400)]
    assert all(several)


def test_s_hides_a_quarter_on_average():
    samples = np.arange(20000)
    samples = samples[UL2.denoisers(samples) == 6]
    lengths = UL2.targets(samples, np.full_like(samples, 64))
    assert set(lengths) == set(range(1, 32))
    assert abs(lengths.mean() - 16) < 4.5 * np.sqrt(31**2 / 12 / samples.size)


@pytest.mark.parametrize("objective", [Prefix(), Span(), Denoise(), Ul2()])
@pytest.mark.parametrize("start", [None, 7])
def test_a_decoder_begins_with_the_id_that_the_network_says_else_with_the_end(objective, start, window, sentences):
    view = objective.view(2, Bytes(), EncoderDecoder(start=start))
    rows = sentences(4, 64)
    batch = window(view, rows, [64, 64, 40, 0])
    assert batch.tokens_BT[:, 0].tolist() == [END if start is None else start] * 4
    told = batch.targets_BT[0] != IGNORED
    assert batch.tokens_BT[0, 1:][told[1:]].tolist() == batch.targets_BT[0][told][:-1].tolist()
