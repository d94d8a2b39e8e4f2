"""What a tokenizer is to the rest of the house; it knows no library and no file of any particular kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]

CARD = "groundup_tokenizer.json"
"""The file of a tokenizer folder that says which kind stands in it."""


@runtime_checkable
class Tokenizer(Protocol):
    """A mapping between text and ids.

    Attributes:
        vocabulary: ids are 0 .. vocabulary - 1.
        end: the id that ends a document and starts the next; `encode` never makes it.
        threads: how many threads `encode_batch` may use.
    """

    vocabulary: int
    end: int
    threads: int

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without `end`.

        Raises:
            UnicodeEncodeError: the text holds a lone surrogate, which is no character.
        """
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, as `encode` gives them, made by `threads` threads."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special ids give nothing, and bytes that are no UTF-8 give U+FFFD.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        ...

    def byte_lengths(self) -> Ids:
        """How many UTF-8 bytes each id stands for, shape (vocabulary,), 0 for special ids.

        For a lossless tokenizer these sum over `encode(text)` to the bytes of the text. One that puts a space
        before every text (`adds_space` in `card`) counts that space too, one byte a document.
        """
        ...

    def apart(self) -> dict[str, int]:
        """Pieces that are no part of a text unless it spells their names, and their ids: special and added ones.

        `end` is not among them, nor what stands for text that has no piece.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the tokenizer into a folder, which `load.load` reads back.

        Raises:
            StorageError: the folder cannot be written.
        """
        ...

    def card(self) -> dict[str, Any]:
        """What `groundup_tokenizer.json` says: kind, format, vocabulary, end, digest."""
        ...

    @property
    def digest(self) -> str:
        """A hash of the mapping and `end`: 64 hexadecimal digits."""
        ...


def lossless(tokenizer: Tokenizer, text: str) -> bool:
    """Whether a text comes back from its ids as it was."""
    return tokenizer.decode(tokenizer.encode(text)) == text
