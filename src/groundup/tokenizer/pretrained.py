"""Finding out what stands in the files of somebody else's tokenizer; how it encodes is its own affair."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

from groundup.core.errors import ConfigError, DataError
from groundup.tokenizer.huggingface import FILE, HuggingFace, from_gpt2
from groundup.tokenizer.load import load
from groundup.tokenizer.protocol import CARD, Tokenizer
from groundup.tokenizer.sentence import MODEL, SentencePiece

KNOWN = "a SentencePiece .model, a tokenizer.json, GPT-2's vocab.json or encoder.json, or a folder with one of them"
PARTNERS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))


def open_pretrained(path: Path, merges: Path | None, end: str | None) -> Tokenizer:
    """The tokenizer in a file or folder.

    Args:
        path: a file or folder as `KNOWN` says; files may end in .gz.
        merges: GPT-2's merges, where they do not stand beside the vocabulary under their usual name.
        end: the piece that ends a document; None for the tokenizer's own.

    Raises:
        DataError: a file is missing, damaged or of no known kind.
        ConfigError: no such piece `end`, or none known.
    """
    if path.is_dir():
        if (path / CARD).is_file() and end is None:
            return load(path)
        path = _in_folder(path)
    name = path.name.removesuffix(".gz")
    if name.endswith(".model"):
        return SentencePiece(_read(path), str(path), end=end)
    if not name.endswith(".json"):
        raise DataError(str(path), "is no tokenizer file that is known", f"give {KNOWN}")
    content = _read(path)
    try:
        value = json.loads(content)
    except ValueError as error:
        raise DataError(str(path), f"is damaged: not JSON ({error})", "restore it from a copy") from None
    if isinstance(value, dict) and "model" in value and not isinstance(value["model"], int):
        return HuggingFace(content.decode(), str(path), end=end)
    if not isinstance(value, dict) or not all(isinstance(i, int) for i in value.values()):
        raise DataError(str(path), "is neither a tokenizer.json nor a vocabulary of ids", f"give {KNOWN}")
    partner = merges or _partner(path)
    lines = _read(partner).decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    return from_gpt2(value, lines, f"{path} and {partner}", end=end)


def _in_folder(folder: Path) -> Path:
    for name in (FILE, MODEL, *(vocabulary for vocabulary, _ in PARTNERS)):
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    models = sorted(folder.glob("*.model"))
    if len(models) != 1:
        found = "several .model files stand" if models else "no tokenizer stands"
        raise DataError(str(folder), f"{found} there", f"give {KNOWN}")
    return models[0]


def _partner(vocabulary: Path) -> Path:
    for mine, other in PARTNERS:
        if mine in vocabulary.name:
            name = vocabulary.name.replace(mine, other).removesuffix(".gz")
            for candidate in (vocabulary.with_name(name), vocabulary.with_name(f"{name}.gz")):
                if candidate.is_file():
                    return candidate
    raise ConfigError("merges", f"the merges of {vocabulary} are not beside it", "give their file: merges=...")


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.name.endswith(".gz") else content
    except FileNotFoundError:
        raise DataError(str(path), "is missing", f"give {KNOWN}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(str(path), f"cannot be read ({error})", "check the file and your rights") from None
