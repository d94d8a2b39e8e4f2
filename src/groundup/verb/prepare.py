"""The prepare verb: raw text becomes documents, documents become ids, ids become shards in a folder that is whole."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import groundup.corpus.config  # noqa: F401  # it registers groups
from groundup.core.config import MISSING, identity_of, option, schema, to_dict
from groundup.core.errors import ConfigError, DataError, StorageError
from groundup.core.files import atomic_json, read_json
from groundup.core.split import TRAIN
from groundup.corpus.document import Source
from groundup.corpus.reading import Reading
from groundup.evaluation.held_out import HeldOutItems
from groundup.shard.manifest import Manifest, Stored, Vocabulary
from groundup.tokenizer.config import Bytes, Pretrained
from groundup.tokenizer.dropout import Dropout
from groundup.tokenizer.protocol import Tokenizer
from groundup.verb.encode import Encoding, table
from groundup.verb.staging import CONFIG, MAKER, Standing, staged, standing

ROOM = 1 << 20  # bytes below which a disk counts as full
LONGEST = 5  # bytes an id stands for on average at most: what the disk must hold is never overstated
LATER = {"sampled_sets": 1, "bpe_dropout": 0.0}
"""Options that are younger than some data folders, with the values that these were made with."""
LIBRARIES = ("numpy", "sentencepiece", "tokenizers", "pyarrow", "zstandard")


@schema("verb", "prepare")
class Prepare:
    """Make a data folder of raw text: documents, a tokenizer, and checksummed shards of tokens for train.py."""

    name: str = option("embedded", "what the data is called", identity=False)
    path: str | None = option(None, "the folder to write; by default data/<name>", identity=False)
    source: dict[str, Any] = option({}, "where documents come from")
    step: dict[str, Any] = option({}, "what each document goes through, in this order")
    tokenizer: Any = option(MISSING, "how text becomes ids")
    held_out: float = option(0.05, "fraction of documents held out, by a hash of their text", at_least=0, below=1)
    seed: int = option(0, "which documents are held out, and which merges are left out", at_least=0)
    sampled_sets: int = option(1, "how often training text is written, in other pieces each time", at_least=1)
    bpe_dropout: float = option(0.0, "leave a merge out with this probability in training text", at_least=0, below=1)
    shard_tokens: int = option(1 << 26, "tokens in a shard file before the next begins", at_least=1024)
    lossless: str = option("error", "what a text is that its ids do not give back", choices=("error", "warning"))
    workers: int | None = option(None, "threads that encode; by default one a core", at_least=1, identity=False)
    fresh: bool = option(False, "prepare again; what is there is replaced once the new is whole", identity=False)
    plugins: list[str] = option([], "modules to import first, which register components of their own")

    def __post_init__(self) -> None:
        if not self.source:
            raise ConfigError("source=[]", "no source is chosen", "choose some, e.g. source=[bible,stdlib]")
        for name in self.source:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ConfigError(f"source.{name}", "does not serve as the name of a file", "use letters and digits")
        if self.sampled_sets > 1 and not self.bpe_dropout:
            what = "would all be the same"
            raise ConfigError(f"sampled_sets={self.sampled_sets}", what, "give bpe_dropout, for instance 0.1")

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
        if self._is_prepared():
            return
        for name, source in self.source.items():
            with under(f"source.{name}"):
                source.build().check()
        with under("tokenizer"):
            self.tokenizer.check()
        if self.bpe_dropout and isinstance(self.tokenizer, Bytes | Pretrained):  # one to be trained is asked later
            self._dropout(self.tokenizer.build(lambda: iter(())))

    def run(self) -> Path:
        """Prepare the data, or see that it is there, and print what it holds.

        Everything is read once before the first byte is written, so that what is wrong with the text is told while
        the folder is as it was.

        Returns:
            the data folder.

        Raises:
            UserError: naming the key or file and the remedy; nothing that looks whole is left behind.
        """
        if self._is_prepared():
            self._tell_prepared()
            return self.folder
        began = time.perf_counter()
        sources: dict[str, Source] = {name: source.build() for name, source in self.source.items()}
        stamps = {name: source.stamp() for name, source in sources.items()}
        reading = Reading(sources, self._steps, self.seed, self.held_out)
        tokenizer = self._tokenizer(reading)
        dropout = self._dropout(tokenizer)
        with staged(self.folder) as place:
            tokenizer.save(place / "tokenizer")
            items = HeldOutItems(self.seed)
            rest = (self.lossless == "error", items, dropout, self.sampled_sets)
            encoding = Encoding(tokenizer, place, self.shard_tokens, *rest)
            holdings = encoding.run(reading)
            questions = {Path(name).stem: asdict(Stored.of(place, name)) for name in items.write(place)}
            atomic_json(place / CONFIG, self._record(stamps))
            vocabulary = Vocabulary(tokenizer.digest, tokenizer.vocabulary, tokenizer.end, encoding.dtype)
            sampling = {"sets": self.sampled_sets, "bpe_dropout": self.bpe_dropout}
            about = {"name": self.name, "questions": questions, **({"sampling": sampling} if dropout else {})}
            Manifest(vocabulary, holdings, about).write(place)
        for line in table(encoding.rows, reading.tallies):
            print(line)
        if dropout:
            times = f"in {self.sampled_sets} sampled sets; tokens are those of the first"
            print(f"note: training text is segmented with bpe_dropout={self.bpe_dropout:g}, {times}")
        print(f"prepared {self.folder} in {time.perf_counter() - began:.1f} s ({tokenizer.vocabulary:,} ids)")
        return self.folder

    def _steps(self) -> dict[str, Any]:
        return {name: step.build() for name, step in self.step.items()}

    def _tokenizer(self, reading: Reading) -> Tokenizer:
        """The tokenizer, trained if it is of that kind, after every document has been read once."""
        with under("tokenizer"):
            tokenizer: Tokenizer = self.tokenizer.build(lambda: self._texts(reading))
        if not reading.tallies:
            for _ in self._texts(reading):
                pass
        tokenizer.threads = self.workers or cores()
        return tokenizer

    def _dropout(self, tokenizer: Tokenizer) -> Dropout | None:
        return Dropout(tokenizer, self.bpe_dropout, self.seed) if self.bpe_dropout else None

    def _texts(self, reading: Reading) -> Iterator[str]:
        yield from reading.train_texts()
        tallies = reading.tallies.values()
        size = sum(tally.bytes.total() + (self.sampled_sets - 1) * tally.bytes[TRAIN] for tally in tallies)
        needed = ROOM + size // LONGEST * 2
        place = existing(self.folder)
        free = shutil.disk_usage(place).free
        if free < needed:
            what = f"{free / 1e6:.1f} MB are free at {place} and the shards take {needed / 1e6:.1f} MB or more"
            raise StorageError(self._where, what, "free some space or give another path=...")

    def _record(self, stamps: dict[str, Any]) -> dict[str, Any]:
        return {
            MAKER: importlib.metadata.version("groundup"),
            "config": to_dict(self),
            "identity": identity_of(self),
            "inputs": stamps,
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in LIBRARIES if name in sys.modules},
        }

    @property
    def _where(self) -> str:
        return f"path={self.folder}"

    def _check_output(self) -> None:
        place = existing(self.folder)
        if not place.is_dir():
            raise StorageError(self._where, f"{place} is a file", "give another path=...")
        if not os.access(place, os.W_OK | os.X_OK):
            raise StorageError(self._where, f"{place} cannot be written", "give a path=... that you may write to")
        if standing(self.folder) is Standing.FOREIGN:
            raise ConfigError(self._where, "holds other files than prepared data", "give the path of a new folder")
        if shutil.disk_usage(place).free < ROOM:
            raise StorageError(self._where, f"the disk of {place} is full", "free some space or give another path=...")

    def _is_prepared(self) -> bool:
        """Whether the folder is whole and of this config.

        Raises:
            ConfigError: it is of another.
            DataError: it is damaged.
        """
        if self.fresh or standing(self.folder) is not Standing.WHOLE:
            return False
        saved = read_json(self.folder / CONFIG, "prepare again with fresh=true").get("identity", {})
        differences = differing({**LATER, **saved}, identity_of(self))
        if differences:
            what = f"holds data prepared with another config ({', '.join(differences[:3])})"
            raise ConfigError(self._where, what, "give another path=..., or fresh=true to replace it")
        return True

    def _tell_prepared(self) -> None:
        try:
            verified = Manifest.read(self.folder).verify(self.folder)
        except DataError as error:
            raise DataError(error.where, error.what, "prepare it again with fresh=true") from None
        record = read_json(self.folder / CONFIG, "prepare again with fresh=true")
        for name, source in self.source.items():
            before = record["inputs"][name]
            try:
                now = source.build().stamp()
            except DataError as error:
                print(f"note: source.{name} is no longer there: {error}")
                continue
            if "package" in now and now != before:
                print(f"note: source.{name} was {before['package']} when prepared and is {now['package']} now")
            elif now != before:
                what = f"has changed since {self.folder} was prepared"
                raise DataError(f"source.{name}", what, "give fresh=true to prepare it again, or another path=...")
        print(f"{self.folder} is complete ({verified}): nothing to do; fresh=true prepares it again")


@contextmanager
def under(prefix: str) -> Iterator[None]:
    """Place a component's config errors below its key."""
    try:
        yield
    except ConfigError as error:
        raise error.under(prefix) from None


def existing(path: Path) -> Path:
    """The path itself or the nearest one above it that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def cores() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def differing(before: Any, now: Any, prefix: str = "") -> list[str]:
    """The dotted keys at which two plain values differ, each with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*now, *(key for key in before if key not in now)]
        absent = object()
        pairs = [(key, before.get(key, absent), now.get(key, absent)) for key in keys]
        return [
            line
            for key, a, b in pairs
            for line in (
                differing(a, b, f"{prefix}{key}.")
                if absent not in (a, b)
                else [f"{prefix}{key} {'is new' if a is absent else 'is gone'}"]
            )
        ]
    return [] if before == now else [f"{prefix[:-1]} was {before}, is {now}"]
