"""Files of token ids made into a data folder: the ids as they are, checksummed, a part held out by its text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from groundup.core.errors import ConfigError, DataError
from groundup.core.split import SPLITS, fingerprint, side
from groundup.interop.folder import TOKENIZER
from groundup.interop.place import made
from groundup.interop.token_file import TokenFile, documents, recognise
from groundup.shard.manifest import Holding, Manifest, Vocabulary, dtype_for
from groundup.shard.writer import SHARD_TOKENS, Writer
from groundup.tokenizer.pretrained import open_pretrained
from groundup.tokenizer.protocol import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Options:
    """How files become shards.

    Attributes:
        source: the name of the text, as in `data.weights`.
        held_out: share of the documents held out.
        seed: of that choice, as prepare.py's.
        shard_tokens: a shard file is closed after so many.
        end: the piece that ends a document; None for the tokenizer's own.
        bare: bytes of an id of a file that does not say so itself.

    Raises:
        ConfigError: the share is none.
    """

    source: str = "tokens"
    held_out: float = 0.05
    seed: int = 0
    shard_tokens: int = SHARD_TOKENS
    end: str | None = None
    bare: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held-out={self.held_out}", "is no share of the documents", "give 0 or more, below 1")


def convert(files: Sequence[Path], tokenizer: Path, folder: Path, options: Options) -> Manifest:
    """Write a data folder that train.py takes from files of ids.

    Args:
        files: of any known form (see `token_file`), in order.
        tokenizer: what the ids mean: a file or folder as `tokenizer=pretrained` takes.
        folder: is made; it must not exist, or be empty.
        options: names and shares.

    Returns:
        What was written.

    Raises:
        DataError: a file is missing, damaged or of no known form, or holds ids that the tokenizer has not.
        ConfigError: the tokenizer does not say what ends a document.
        StorageError: the folder holds something, or cannot be written.
    """
    known = [recognise(file, options.bare) for file in files]
    meaning = open_pretrained(tokenizer, None, options.end)
    with made(folder) as place:
        meaning.save(place / TOKENIZER)
        held = _write(known, meaning, place, options)
        about = {
            "name": options.source,
            "files": [{"file": _named(f.path), "form": f.form, "ids": f.tokens} for f in known],
        }
        vocabulary = Vocabulary(meaning.digest, meaning.vocabulary, meaning.end, dtype_for(meaning.vocabulary))
        manifest = Manifest(vocabulary, held, about)
        manifest.write(place)
    return manifest


def _write(
    known: Sequence[TokenFile], meaning: Tokenizer, place: Path, options: Options
) -> dict[str, dict[str, Holding]]:
    dtype = dtype_for(meaning.vocabulary)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                Writer(
                    place,
                    split,
                    options.source,
                    dtype,
                    options.shard_tokens,
                    vocabulary=meaning.vocabulary,
                    end=meaning.end,
                )
            )
            for split in SPLITS
        }
        for file, offset, ids in documents(known, meaning.end):
            if int(ids.min()) < 0 or int(ids.max()) >= meaning.vocabulary:
                what = f"holds an id outside the tokenizer's {meaning.vocabulary}, in the document at {offset:,}"
                raise DataError(str(file.path), what, "give the tokenizer that made these ids")
            text = meaning.decode(ids.tolist())
            mark = fingerprint(text)
            origin = {"file": _named(file.path), "offset": offset, "hash": mark}
            size = len(text.encode("utf-8", "surrogatepass"))
            writers[side(mark, options.seed, options.held_out)].add(ids, size, origin)
        holdings = {split: Holding.of(writer.close()) for split, writer in writers.items()}
    if not holdings["train"].tokens:
        raise DataError(str(known[0].path), "holds no document to train on", "give more text, or hold out less of it")
    return {split: {options.source: holding} if holding.documents else {} for split, holding in holdings.items()}


def _named(path: Path) -> str:
    """A path as text that any file can hold."""
    return os.fsencode(path).decode("utf-8", "replace")
