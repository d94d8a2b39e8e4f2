"""What a data folder holds, and whether that is still what was written; it reads no token but to check it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from groundup.core.errors import DataError
from groundup.core.files import atomic_json, checksum
from groundup.shard.storage import Storage, open_storage

NAME = "manifest.json"
FORMAT = "groundup-shards"
VERSION = 1
REMEDY = "prepare the data again with `python prepare.py fresh=true`"
HASHED_BYTES = 4 << 30
"""Up to this many bytes in all, `verify` in mode auto reads and hashes every file; above, it looks at sizes alone."""

SET = "~"
"""Stands between the name of a source and the number of a sampled set: `bible~2` is the same text in other pieces."""

_DTYPES = {"uint16": 2, "uint32": 4}
_BLOCK = 1 << 24


def dtype_for(vocabulary: int) -> str:
    """The smallest shard type, "uint16" or "uint32", that holds the ids of a vocabulary."""
    return "uint16" if vocabulary <= 1 << 16 else "uint32"


def sets_of(names: Iterable[str]) -> dict[str, list[str]]:
    """The sources behind some names: each with the names of its sampled sets in order, or with its own alone."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.partition(SET)[0], []).append(name)
    return found


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer the shards were made with: its digest, its number of ids, the id `end`, and the shards' type."""

    digest: str
    vocabulary: int
    end: int
    dtype: str


@dataclass(frozen=True)
class Stored:
    """A file beside the manifest, by its path relative to it."""

    file: str
    size: int
    sha256: str

    @classmethod
    def of(cls, folder: Path, file: str) -> Stored:
        """A file as it stands in a folder.

        Raises:
            DataError: it is missing or cannot be read.
        """
        return cls(file, (folder / file).stat().st_size, checksum(folder / file))


@dataclass(frozen=True)
class Shard:
    """A stretch of whole documents of one source: tokens, and beside them document ends and provenance."""

    tokens: int
    documents: int
    bytes: int
    data: Stored
    ends: Stored
    provenance: Stored

    @property
    def files(self) -> tuple[Stored, ...]:
        """All files of the shard."""
        return (self.data, self.ends, self.provenance)


@dataclass(frozen=True)
class Holding:
    """What a split holds of one source. `tokens` counts an `end` per document, `bytes` the UTF-8 of the texts."""

    tokens: int
    bytes: int
    documents: int
    shards: tuple[Shard, ...]

    @classmethod
    def of(cls, shards: list[Shard]) -> Holding:
        """The sum of some shards."""
        return cls(
            tokens=sum(shard.tokens for shard in shards),
            bytes=sum(shard.bytes for shard in shards),
            documents=sum(shard.documents for shard in shards),
            shards=tuple(shards),
        )


@dataclass(frozen=True)
class Verified:
    """What a check covered: so many files of so many bytes, with their contents or by their sizes alone."""

    files: int
    bytes: int
    contents: bool

    def __str__(self) -> str:
        if self.contents:
            return f"{self.files} files, {self.bytes:,} bytes: every checksum holds"
        return f"{self.files} files, {self.bytes:,} bytes: sizes hold; contents not read (verify=sha256 reads them)"


@dataclass(frozen=True)
class Manifest:
    """A data folder's table of contents: splits ("train", "held_out") of sources of shards.

    Attributes:
        tokenizer: what the ids mean.
        splits: per split and source name what it holds.
        about: anything else the maker wants to keep, as JSON.
    """

    tokenizer: Vocabulary
    splits: dict[str, dict[str, Holding]]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A hash of everything here; the files' own hashes are in it, so it stands for the data."""
        return _digest(_plain(self))

    def write(self, folder: Path) -> None:
        """Put the manifest into its folder, whole or not at all. To be done last: it is what makes a data folder.

        Raises:
            StorageError: it cannot be written.
        """
        plain = _plain(self)
        atomic_json(Path(folder) / NAME, {**plain, "digest": _digest(plain)})

    @classmethod
    def read(cls, folder: str | Path | Storage) -> Manifest:
        """The manifest of a data folder, checked in itself but not against its files.

        Args:
            folder: a path, a URL that fsspec knows, or an opened storage.

        Raises:
            DataError: no such folder, no manifest, or one that is damaged, changed, or of another format.
        """
        storage = folder if isinstance(folder, Storage) else open_storage(folder)
        where = storage.describe(NAME)
        try:
            raw = json.loads(storage.read(NAME))
        except FileNotFoundError:
            raise DataError(
                where, "there are no shards here", "make them with `python prepare.py`, or give another path"
            ) from None
        except OSError as error:
            raise DataError(where, f"cannot be read ({error.strerror or error})", "make it readable") from error
        except (ValueError, RecursionError) as error:
            raise DataError(where, f"is damaged: not JSON ({error})", REMEDY) from error
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise DataError(where, "is no manifest of shards", REMEDY)
        if raw.get("version") != VERSION:
            raise DataError(where, f"is of format version {raw.get('version')}, not {VERSION}", REMEDY)
        written = raw.pop("digest", None)
        if written != _digest(raw):
            raise DataError(where, "is not as it was written", REMEDY)
        try:
            manifest = _revive(raw)
            _consistent(manifest, where)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise DataError(where, f"is damaged ({error!r})", REMEDY) from error
        return manifest

    def holdings(self, split: str, where: str) -> dict[str, Holding]:
        """The sources of a split, at least one.

        Raises:
            DataError: the split has none.
        """
        held = {name: holding for name, holding in self.splits.get(split, {}).items() if holding.tokens}
        if not held:
            raise DataError(where, f"holds no {split} text", "prepare more text with `python prepare.py`")
        return held

    def files(self) -> Iterator[tuple[Stored, bool]]:
        """Every file, and whether it holds tokens."""
        for sources in self.splits.values():
            for holding in sources.values():
                for shard in holding.shards:
                    yield from ((stored, stored is shard.data) for stored in shard.files)

    def verify(self, folder: str | Path | Storage, mode: str = "auto") -> Verified:
        """Compare the files with what was written.

        Args:
            folder: where they are.
            mode: "size" looks at sizes, "sha256" reads all files for their checksums and ids, "auto" reads them if
                they are local and of no more than `HASHED_BYTES` in all.

        Raises:
            DataError: a file that is missing, truncated or changed, or a token outside the vocabulary.
        """
        storage = folder if isinstance(folder, Storage) else open_storage(folder)
        files = list(self.files())
        total = sum(stored.size for stored, _ in files)
        contents = mode == "sha256" or (mode == "auto" and storage.local and total <= HASHED_BYTES)
        for stored, _ in files:
            _check_size(storage, stored)
        if contents:
            with ThreadPoolExecutor(max_workers=2) as pool:
                for _ in pool.map(lambda item: self._check_contents(storage, *item), files):
                    pass
        return Verified(len(files), total, contents)

    def _check_contents(self, storage: Storage, stored: Stored, holds_tokens: bool) -> None:
        path = storage.path(stored.file, stored.size, stored.sha256)
        digest, largest = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    if holds_tokens:
                        largest = max(largest, int(np.frombuffer(block, np.dtype(self.tokenizer.dtype)).max()))
        except OSError as error:
            what = f"cannot be read ({error.strerror or error})"
            raise DataError(storage.describe(stored.file), what, "make it readable") from error
        if digest.hexdigest() != stored.sha256:
            raise DataError(storage.describe(stored.file), "is damaged: its checksum differs", REMEDY)
        if largest >= self.tokenizer.vocabulary:
            what = f"holds token {largest}, outside the vocabulary of {self.tokenizer.vocabulary}"
            raise DataError(storage.describe(stored.file), what, REMEDY)


def _check_size(storage: Storage, stored: Stored) -> None:
    where = storage.describe(stored.file)
    try:
        size = storage.size(stored.file)
    except FileNotFoundError:
        raise DataError(where, "is missing", REMEDY) from None
    except OSError as error:
        raise DataError(where, f"cannot be read ({error.strerror or error})", "make it readable") from error
    if size != stored.size:
        kind = "truncated" if size < stored.size else "too long"
        raise DataError(where, f"is {kind}: {size:,} bytes instead of {stored.size:,}", REMEDY)


def _consistent(manifest: Manifest, where: str) -> None:
    tokenizer = manifest.tokenizer
    width = _DTYPES.get(tokenizer.dtype)
    if width is None:
        raise DataError(where, f"holds tokens of type {tokenizer.dtype}, not {' or '.join(_DTYPES)}", REMEDY)
    if not 0 <= tokenizer.end < tokenizer.vocabulary <= 1 << (8 * width):
        what = f"has a vocabulary of {tokenizer.vocabulary} with end {tokenizer.end}, which cannot be {tokenizer.dtype}"
        raise DataError(where, what, REMEDY)
    for split, sources in manifest.splits.items():
        for name, holding in sources.items():
            sound = holding == Holding.of(list(holding.shards)) and all(
                shard.data.size == shard.tokens * width and shard.ends.size == shard.documents * 8 and shard.tokens > 0
                for shard in holding.shards
            )
            if not sound:
                raise DataError(where, f"counts of {split} {name} contradict each other", REMEDY)


def _plain(manifest: Manifest) -> dict[str, Any]:
    plain = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    return dict(json.loads(json.dumps(plain, ensure_ascii=False)))


def _digest(plain: Mapping[str, Any]) -> str:
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _revive(raw: Mapping[str, Any]) -> Manifest:
    splits = {
        split: {name: _holding(value) for name, value in sources.items()} for split, sources in raw["splits"].items()
    }
    return Manifest(Vocabulary(**raw["tokenizer"]), splits, dict(raw["about"]))


def _holding(raw: Mapping[str, Any]) -> Holding:
    shards = [
        Shard(
            tokens=shard["tokens"],
            documents=shard["documents"],
            bytes=shard["bytes"],
            data=Stored(**shard["data"]),
            ends=Stored(**shard["ends"]),
            provenance=Stored(**shard["provenance"]),
        )
        for shard in raw["shards"]
    ]
    return Holding(raw["tokens"], raw["bytes"], raw["documents"], tuple(shards))
