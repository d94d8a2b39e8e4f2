"""The kinds of tokenizer a config can name; the libraries behind them are imported only when one is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.core.config.schema import group, option, schema

if TYPE_CHECKING:
    from groundup.tokenizer.protocol import Tokenizer

Texts = Callable[[], Iterator[str]]

group("tokenizer", "how text becomes ids: trained here, taken from files, or plain bytes")


@schema("tokenizer", "bytes")
class Bytes:
    """The bytes of UTF-8 and one id that ends a document: nothing to train, four times as many ids."""

    def check(self) -> None:
        """Nothing can be wrong with it."""

    def build(self, texts: Texts) -> Tokenizer:  # noqa: ARG002  # one signature for every kind
        """The tokenizer; the texts are not read."""
        from groundup.tokenizer.byte import Bytes as Built

        return Built()


@schema("tokenizer", "bpe")
class BPE:
    """Byte-pair pieces (Sennrich et al. 2016) trained on the texts; lossless, with bytes for what is rare."""

    vocabulary: int = option(4096, "number of ids, 258 of them bytes and marks", at_least=512, at_most=1_000_000)
    sample_mb: float = option(64.0, "megabytes of text to train on, chosen by hash", above=0)
    coverage: float = option(0.9995, "share of the characters that get pieces of their own", above=0, at_most=1)
    split_digits: bool = option(True, "every digit is a piece of its own")
    longest_piece: int = option(16, "characters in the longest piece", at_least=1, at_most=512)
    seed: int = option(0, "which sample is drawn when there is more text than sample_mb")

    def check(self) -> None:
        """Nothing more can be told before the text is read."""

    def build(self, texts: Texts) -> Tokenizer:
        """Train on the texts, which are read once.

        Raises:
            ConfigError: the vocabulary does not fit the texts.
            DataError: there is no text.
        """
        from groundup.tokenizer.sentence import SentencePiece
        from groundup.tokenizer.train import train

        return SentencePiece(train(self, texts()), "the trained model", exact=True)


@schema("tokenizer", "pretrained")
class Pretrained:
    """Somebody's tokenizer as it is: SentencePiece, a Hugging Face tokenizer.json, GPT-2's files, or one saved here."""

    path: str = option(doc="a .model, a tokenizer.json, GPT-2's vocabulary (all also .gz), or a folder with one")
    merges: str | None = option(None, "GPT-2's merges, where they are not beside the vocabulary")
    end: str | None = option(None, "the piece that ends a document; by default the tokenizer's own")

    def check(self) -> None:
        """Open the files.

        Raises:
            DataError, ConfigError: as `build`.
        """
        self._open()

    def build(self, texts: Texts) -> Tokenizer:  # noqa: ARG002  # one signature for every kind
        """The tokenizer; the texts are not read.

        Raises:
            DataError: a file is missing, damaged or of no known kind.
            ConfigError: no such piece `end`, or none known.
        """
        return self._open()

    def _open(self) -> Tokenizer:
        from groundup.tokenizer.pretrained import open_pretrained

        merges = None if self.merges is None else Path(self.merges).expanduser()
        return open_pretrained(Path(self.path).expanduser(), merges, self.end)
