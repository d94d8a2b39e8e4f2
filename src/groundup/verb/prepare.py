"""The prepare verb: raw text becomes documents, documents become ids, ids become shards in a folder that is whole."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import groundup.corpus.config
import groundup.tokenizer.config  # noqa: F401  # these register the groups
from groundup.core.config import MISSING, identity_of, option, schema, to_dict
from groundup.core.errors import ConfigError, DataError, StorageError, UserError
from groundup.core.files import atomic_json, read_json
from groundup.corpus.document import Document, Source
from groundup.corpus.reading import Reading, Tally
from groundup.corpus.split import HELD_OUT, SPLITS, TRAIN
from groundup.tokenizer.protocol import Ids, Tokenizer
from groundup.verb.staging import CONFIG, MANIFEST, staged, standing

BATCH_BYTES = 4 << 20  # of text encoded at a time
CHECKED = 32  # documents of each source that must come back from their ids
ROOM = 1 << 20  # bytes below which a disk counts as full
LONGEST = 5  # bytes that an id stands for on average, at the very most: what is needed is never overstated


@schema("verb", "prepare")
class Prepare:
    """Make a data folder of raw text: documents, a tokenizer, and checksummed shards of tokens for `train.py`."""

    name: str = option("embedded", "what the data is called", identity=False)
    path: str | None = option(None, "the folder to write; by default data/<name>", identity=False)
    source: dict[str, Any] = option({}, "where documents come from")
    step: dict[str, Any] = option({}, "what each document goes through, in this order")
    tokenizer: Any = option(MISSING, "how text becomes ids")
    held_out: float = option(0.05, "fraction of documents held out, by a hash of their text", at_least=0, below=1)
    seed: int = option(0, "which documents are held out", at_least=0)
    shard_tokens: int = option(1 << 26, "tokens in a shard file before the next begins", at_least=1024)
    lossless: str = option("error", "what a text that does not come back is", choices=("error", "warning"))
    workers: int | None = option(None, "threads that encode; by default one per core", at_least=1, identity=False)
    fresh: bool = option(False, "prepare again; what is there is replaced once the new is whole", identity=False)
    plugins: list[str] = option([], "modules to import first, which register components of their own")

    def __post_init__(self) -> None:
        if not self.source:
            raise ConfigError("source=[]", "no source is chosen", "choose some: source=[bible,stdlib]; see --help source")
        for name in self.source:
            if not name or name.startswith(".") or "/" in name or os.sep in name:
                raise ConfigError(f"source.{name}", "cannot be the name of a folder", "use letters, digits, - and _")

    @property
    def folder(self) -> Path:
        """Where the data goes."""
        return Path(self.path if self.path is not None else f"data/{self.name}").expanduser()

    def check(self) -> None:
        """Find what cannot work before anything is read in full or written.

        Raises:
            UserError: naming the key or file and the remedy.
        """
        self._check_output()
        if self._is_complete():
            return
        for name, source in self.source.items():
            with told_under(f"source.{name}"):
                source.build().check()
        with told_under("tokenizer"):
            self.tokenizer.check()

    def run(self) -> Path:
        """Prepare the data, or see that it is there, and print what it holds.

        Returns:
            the data folder.

        Raises:
            UserError: naming the key or file and the remedy; nothing that looks whole is left behind.
        """
        if self._is_complete():
            self._tell_complete()
            return self.folder
        began = time.perf_counter()
        sources: dict[str, Source] = {name: source.build() for name, source in self.source.items()}
        stamps = {name: source.stamp() for name, source in sources.items()}
        reading = Reading(sources, self._steps, self.seed, self.held_out)
        tokenizer = self._tokenizer(reading)
        with staged(self.folder) as place:
            tokenizer.save(place / "tokenizer")
            records = Encoding(self, tokenizer, place).run(reading)
            description = {"config": to_dict(self), "identity": identity_of(self), "inputs": stamps}
            atomic_json(place / CONFIG, {"groundup": "prepare", **description, "versions": versions()})
            self._manifest(tokenizer, records).write(place)
        print(f"prepared {self.folder} in {time.perf_counter() - began:.1f} s")
        return self.folder
