"""SentencePiece models (Kudo & Richardson 2018, arXiv 1808.06226), ours and others'; it does not train them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from groundup.core.errors import ConfigError, DataError, nearest
from groundup.core.files import atomic_json, atomic_write
from groundup.tokenizer.dropout import Merges
from groundup.tokenizer.protocol import CARD, Ids
from groundup.tokenizer.table import BYTES, Table, byte_of

MODEL = "tokenizer.model"
SPACE = "\u2581"  # SentencePiece writes a space as this character, so that the two cannot be told apart
PIECE, TRAINER_SPEC, SELF_TEST = 1, 2, 4  # fields of a ModelProto; the last two say how it was made, not what it does
KIND = 3  # the field of a piece, or of TRAINER_SPEC, that says of what kind it, or the model, is
BYTE_PAIRS, ORDINARY, OWN_RULES = b"\2", b"\1", (b"\4", b"\5")  # a kind of model, and kinds of pieces
APART = (b"\3", b"\4", b"\5")  # kinds of pieces that no text is made of: control, user-defined, unused
_CUT = re.compile(r".{4096,}?[^ ](?= )|.+", re.DOTALL)


class SentencePiece:
    """A SentencePiece model.

    Args:
        model: the bytes of a `.model` file.
        where: the file, for errors.
        exact: a model made by `train.train`. Its pieces never cross a space from the left, so long texts are cut
            before spaces without any change of ids, and U+2581 in a text is written as bytes, which keeps it apart
            from a space. Others' models are run as their authors run them.
        end: the piece that ends a document; None for the model's own end of sequence.

    Raises:
        DataError: the bytes are no SentencePiece model.
        ConfigError: the piece `end` is unknown, or None is given and the model has no end of sequence.
    """

    def __init__(self, model: bytes, where: str, *, exact: bool = False, end: str | None = None) -> None:
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.load_from_serialized_proto(model)
        except (RuntimeError, OSError) as error:
            raise DataError(where, f"is no SentencePiece model ({error})", "give a .model file") from None
        self._bytes = model
        self.exact = exact
        self.threads = 1
        self.vocabulary = self._model.get_piece_size()
        self.end = self._find_end(end)
        self._table = Table(list(self._pieces()), adds_space=self._model.normalize("a") == SPACE + "a")
        self._escape = [self._model.piece_to_id(BYTES[byte]) for byte in SPACE.encode()] if exact else []

    def _find_end(self, piece: str | None) -> int:
        if piece is None:
            if self._model.eos_id() >= 0:
                return int(self._model.eos_id())
            raise ConfigError(
                "end", "this model has no end of sequence", "name the piece that ends a document: end=..."
            )
        number = self._model.piece_to_id(piece)
        if self._model.id_to_piece(number) != piece:
            known = [self._model.id_to_piece(i) for i in range(self.vocabulary) if self._model.is_control(i)]
            raise ConfigError(f"end={piece}", "is no piece of this model", nearest(piece, known[:8]))
        return int(number)

    def _pieces(self) -> Iterator[bytes]:
        model = self._model
        for i in range(self.vocabulary):
            piece = model.id_to_piece(i)
            if i == self.end or model.is_control(i) or model.is_unknown(i) or model.is_unused(i):
                yield b""
            else:
                byte = byte_of(piece) if model.is_byte(i) else None
                yield piece.replace(SPACE, " ").encode() if byte is None else byte

    def scored(self) -> list[tuple[str, float]]:
        """Every piece as the model spells it, with its score, by id."""
        return [(self._model.id_to_piece(i), self._model.get_score(i)) for i in range(self.vocabulary)]

    def special(self) -> set[str]:
        """The pieces that no text is made of."""
        kinds = (self._model.is_control, self._model.is_unknown, self._model.is_unused)
        return {self._model.id_to_piece(i) for i in range(self.vocabulary) if any(kind(i) for kind in kinds)}

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return [int(i) for i in self.encode_batch([text])[0]]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, by `threads` threads of the library."""
        parts = [self._parts(text) for text in texts]
        flat = [part.encode() for cut in parts for part in cut if part != SPACE or not self.exact]
        arrays = self._model.encode(flat, out_type="numpy", num_threads=self.threads) if flat else []
        escape = np.array(self._escape, dtype=np.int32)
        made = iter(arrays)
        result: list[Ids] = []
        for cut in parts:
            pieces = [next(made) if part != SPACE or not self.exact else escape for part in cut]
            result.append(pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, np.int32), *pieces]))
        return result

    def _parts(self, text: str) -> list[str]:
        if not self.exact:
            return [text]
        if SPACE in text:
            return [part for run in re.split(f"({SPACE})", text) for part in _CUT.findall(run)]
        return [text] if len(text) < 8192 else _CUT.findall(text)

    def apart(self) -> dict[str, int]:
        """Control, user-defined and unused pieces."""
        kinds = enumerate(self._kinds())
        return {self._model.id_to_piece(i): i for i, kind in kinds if kind in APART and i != self.end}

    def _kinds(self) -> list[bytes]:
        """The kind of each piece, by id."""
        message = fields(self._bytes)
        return [dict(fields(content)).get(KIND, ORDINARY) for number, content in message if number == PIECE]

    def merges(self) -> Merges | None:
        """The merges of a byte-pair model, by the scores of the pieces they make; None for a model with other rules."""
        message = list(fields(self._bytes))
        model = {n: value for number, content in message if number == TRAINER_SPEC for n, value in fields(content)}
        kinds = self._kinds()
        spelt = [self._model.piece_to_id(piece) for piece in BYTES]
        whole = all(map(self._model.is_byte, spelt))
        if model.get(KIND) != BYTE_PAIRS or not whole or any(kind in OWN_RULES for kind in kinds):
            return None
        scored = [(name.replace(SPACE, " ") if self.exact else name, score) for name, score in self.scored()]
        ids = {name: i for i, (name, _) in enumerate(scored) if kinds[i] == ORDINARY}
        order = {score: rank for rank, score in enumerate(sorted({score for _, score in scored}, reverse=True))}
        ranks = {
            (name[:cut], name[cut:]): order[scored[i][1]]
            for name, i in ids.items()
            for cut in range(1, len(name))
            if all(len(part) == 1 or part in ids for part in (name[:cut], name[cut:]))
        }
        return Merges(lambda text: [text if self.exact else self._model.normalize(text)], ranks, ids, spelt)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return self._table.decode(ids)

    def byte_lengths(self) -> Ids:
        """The bytes of each piece."""
        return self._table.lengths()

    def card(self) -> dict[str, Any]:
        """What the tokenizer's folder says about it."""
        return {
            "kind": "bpe" if self.exact else "pretrained",
            "format": "sentencepiece",
            "file": MODEL,
            "vocabulary": self.vocabulary,
            "end": self.end,
            "end_piece": self._model.id_to_piece(self.end),
            "adds_space": self._table.adds_space,
            "digest": self.digest,
        }

    def save(self, folder: Path) -> None:
        """Write the model and its card."""
        atomic_write(Path(folder) / MODEL, self._bytes)
        atomic_json(Path(folder) / CARD, self.card())

    @property
    def digest(self) -> str:
        """A hash of pieces, scores, kinds and normalisation, of `end` and of how U+2581 is written."""
        hashed = hashlib.sha256(f"sentencepiece {self.exact} {self.end}".encode())
        for number, content in fields(self._bytes):
            if number not in (TRAINER_SPEC, SELF_TEST):
                hashed.update(number.to_bytes(4, "little") + len(content).to_bytes(8, "little") + content)
        return hashed.hexdigest()


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protocol-buffer message.

    Yields:
        the number and the bytes of each field in order.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 2:
            length, at = _varint(message, at)
        else:
            length = {1: 8, 5: 4}.get(tag & 7) or _varint(message, at)[1] - at
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
