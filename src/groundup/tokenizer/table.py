"""The bytes behind each id, and decoding by them; it does not know how ids are chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from groundup.tokenizer.protocol import Ids

BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""How a byte is spelt that stands where no piece does, by SentencePiece and by those who took it over."""


class Table:
    """Decodes by joining the bytes of ids, so that what is counted is what is decoded.

    Args:
        pieces: the bytes of each id, empty for special ids.
        adds_space: whether encoding puts a space before the text, which decoding then takes away.
    """

    def __init__(self, pieces: Sequence[bytes], adds_space: bool = False) -> None:
        self.pieces = tuple(pieces)
        self.adds_space = adds_space

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        numbers = [int(i) for i in ids]
        if numbers and not 0 <= min(numbers) <= max(numbers) < len(self.pieces):
            raise ValueError(f"ids must lie in 0..{len(self.pieces) - 1}, got {min(numbers)}..{max(numbers)}")
        joined = b"".join([self.pieces[i] for i in numbers])
        return joined.decode("utf-8", "replace").removeprefix(" " if self.adds_space else "")

    def lengths(self) -> Ids:
        """The number of bytes of each id, shape (vocabulary,)."""
        return np.array([len(piece) for piece in self.pieces], dtype=np.int32)


def byte_of(piece: str) -> bytes | None:
    """The byte a fallback piece such as `<0x0A>` stands for; None if it is none."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return None
