"""Reading a tokenizer back from the folder it was saved in; it does not know what the tokenizer is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from groundup.core.errors import ConfigError, DataError
from groundup.core.files import read_json
from groundup.tokenizer.byte import Bytes
from groundup.tokenizer.huggingface import HuggingFace
from groundup.tokenizer.protocol import CARD, Tokenizer
from groundup.tokenizer.sentence import SentencePiece

REMEDY = "prepare the data again (prepare.py with fresh=true) or restore the file"


def load(folder: Path) -> Tokenizer:
    """The tokenizer that `save` wrote into a folder.

    Raises:
        DataError: a file is missing, damaged, or not the one that was saved.
    """
    folder = Path(folder)
    card = read_json(folder / CARD, REMEDY)
    try:
        tokenizer = _open(folder, card)
        same = tokenizer.digest == card["digest"]
    except (KeyError, TypeError, ConfigError) as error:
        raise DataError(str(folder / CARD), f"is damaged ({error!r})", REMEDY) from None
    except DataError as error:
        raise DataError(error.where, error.what, REMEDY) from None
    if not same:
        raise DataError(str(folder / card.get("file", CARD)), "is not the tokenizer that was saved here", REMEDY)
    return tokenizer


def _open(folder: Path, card: dict[str, Any]) -> Tokenizer:
    if card["format"] == "bytes":
        return Bytes()
    path = folder / card["file"]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror})", REMEDY) from None
    if card["format"] == "sentencepiece":
        return SentencePiece(content, str(path), exact=card["kind"] == "bpe", end=card["end_piece"])
    if card["format"] == "tokenizers":
        return HuggingFace(content.decode("utf-8", "replace"), str(path), end=card["end_piece"])
    raise DataError(str(folder / CARD), f"format {card['format']} is not known", REMEDY)
