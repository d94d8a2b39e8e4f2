"""Words and sentences, as the pieces of tokenizers tell them."""

from __future__ import annotations

import numpy as np

from groundup.data.pieces import sentence_ends, texts, words
from groundup.tokenizer.byte import Bytes
from groundup.tokenizer.table import Table


class Few:
    """A tokenizer of a few pieces, which takes away a space before the text as SentencePiece does."""

    pieces = ("", " the", "re", " ", "\n", "!", '?"', ".)", "3.5", "\u3002", "x. ")

    def __init__(self) -> None:
        self.vocabulary, self.end = len(self.pieces), 0
        self._table = Table([piece.encode() for piece in self.pieces], adds_space=True)

    def decode(self, ids: list[int]) -> str:
        return self._table.decode(ids)


def test_the_space_before_a_piece_is_seen() -> None:
    assert tuple(texts(Few())) == Few.pieces


def test_words_begin_with_whitespace_or_behind_it_or_where_a_document_does() -> None:
    tokens = [[2, 1, 2, 3, 2, 2, 4, 2, 0, 2, 2]]
    begins = words(Few()).begin(np.array(tokens))
    assert begins[0].tolist() == [True, True, False, True, True, False, True, True, True, True, False]


def test_words_of_bytes_are_those_of_the_text() -> None:
    text = "Words  of bytes,\nand æther. "
    begins = words(Bytes()).begin(np.array([Bytes().encode(text)]))[0]
    parts = "".join(("|" if begin else "") + chr(byte) for begin, byte in zip(begins, text.encode(), strict=True))
    assert [part for part in parts.encode("latin-1").decode().split("|") if part.strip()] == text.split()


def test_sentences_end_with_their_stops_and_what_closes_quotes() -> None:
    ends = sentence_ends(Few())
    assert [piece for piece, end in zip(Few.pieces, ends, strict=True) if end] == ["!", '?"', ".)", "\u3002", "x. "]
