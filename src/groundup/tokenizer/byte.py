"""The tokenizer that trains nothing: ids are the bytes of UTF-8, and one more ends a document."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundup.core.files import atomic_json
from groundup.tokenizer.protocol import CARD, Ids
from groundup.tokenizer.table import Table


class Bytes:
    """Ids 0..255 are bytes; 256 ends a document."""

    vocabulary = 257
    end = 256

    def __init__(self) -> None:
        self.threads = 1
        self._table = Table([bytes([i]) for i in range(256)] + [b""])

    def encode(self, text: str) -> list[int]:
        """The bytes of the text."""
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The bytes of each text; copying them needs no threads."""
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of bytes."""
        return self._table.decode(ids)

    def byte_lengths(self) -> Ids:
        """One for each byte, 0 for the end."""
        return self._table.lengths()

    def apart(self) -> dict[str, int]:
        """None: every id but the end is a byte."""
        return {}

    def card(self) -> dict[str, Any]:
        """What the tokenizer's folder says about it."""
        return {
            "kind": "bytes",
            "format": "bytes",
            "vocabulary": self.vocabulary,
            "end": self.end,
            "adds_space": False,
            "digest": self.digest,
        }

    def save(self, folder: Path) -> None:
        """Write the card; there is nothing else to write."""
        atomic_json(Path(folder) / CARD, self.card())

    @property
    def digest(self) -> str:
        """A constant: there is one such mapping."""
        return hashlib.sha256(b"bytes, end 256").hexdigest()
