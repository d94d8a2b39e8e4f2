"""Writes the documents of one source into shards, in constant memory; how they became tokens it does not know."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import DataError
from groundup.core.files import atomic_file
from groundup.shard import provenance as records
from groundup.shard.manifest import SET, Shard, Stored

SHARD_TOKENS = 1 << 27
"""Tokens after which a shard is closed, where nothing else is said."""

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]*({SET}[0-9]+)?")


class Writer:
    """Appends documents to the shards of one source of one split.

    A shard takes its name only when it is whole and on disk; the caller writes the manifest from what `close` returns.
    As a context manager it closes on a good end and leaves no half-made shard on a bad one.

    Args:
        folder: the data folder.
        split: "train" or "held_out".
        source: letters, digits, dot, dash and underscore; `~` and a number where it is a sampled set.
        dtype: "uint16" or "uint32".
        shard_tokens: a shard is closed after the document with which it reaches this many.
        vocabulary: the number of ids.
        end: the id put after every document.

    Raises:
        DataError: a source name that cannot be a file name.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        source: str,
        dtype: str,
        shard_tokens: int = SHARD_TOKENS,
        *,
        vocabulary: int,
        end: int,
    ) -> None:
        if not _NAME.fullmatch(source):
            raise DataError(f"source {source!r}", "cannot name a file", "use letters, digits, dot, dash and underscore")
        if shard_tokens < 1 or not 0 <= end < vocabulary <= np.iinfo(dtype).max + 1:
            raise ValueError(f"end {end}, vocabulary {vocabulary}, type {dtype}, {shard_tokens} tokens a shard")
        self._folder, self._stem = Path(folder), f"{split}/{source}"
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._shard_tokens, self._vocabulary, self._end = shard_tokens, vocabulary, end
        self._shards: list[Shard] = []
        self._open: _OpenShard | None = None

    def add(self, ids: NDArray[Any], bytes: int, provenance: Mapping[str, Any]) -> None:
        """Append a document.

        Args:
            ids: (tokens,) integers, without `end`, which is put after them.
            bytes: the UTF-8 bytes of its text.
            provenance: where it came from, as JSON; it is found again by token offset.

        Raises:
            DataError: an id outside the vocabulary, or `end` inside the document.
            StorageError: it cannot be written.
        """
        ids = np.asarray(ids)
        if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= self._vocabulary or bool((ids == self._end).any())):
            what = f"holds an id outside the vocabulary of {self._vocabulary}, or its end {self._end}"
            raise DataError(f"a document of {self._stem}", what, "encode it with the tokenizer of these shards")
        if self._open is None:
            self._open = _OpenShard(self._folder, f"{self._stem}-{len(self._shards):05d}")
        closed = np.empty(ids.size + 1, dtype=self._dtype)
        closed[:-1], closed[-1] = ids, self._end
        self._open.add(closed, bytes, provenance)
        if self._open.tokens >= self._shard_tokens:
            self._finish()

    def close(self) -> list[Shard]:
        """Finish the last shard and say what was written, in order.

        Raises:
            StorageError: it cannot be written.
        """
        self._finish()
        return list(self._shards)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._open is not None:
            self._open.discard(kind, error, trace)
            self._open = None

    def _finish(self) -> None:
        if self._open is not None:
            self._shards.append(self._open.finish())
            self._open = None


class _OpenShard:
    """The three files of a shard while it grows; none has its name yet."""

    def __init__(self, folder: Path, stem: str) -> None:
        self.tokens, self._documents, self._bytes = 0, 0, 0
        self._stack = ExitStack()
        self._names = [f"{stem}.bin", f"{stem}.idx", f"{stem}.jsonl.zst"]
        with ExitStack() as stack:
            self._files = [_Hashed(stack.enter_context(atomic_file(folder / name))) for name in self._names]
            self._stack = stack.pop_all()
        self._records = records.Writer(self._files[2])

    def add(self, closed: NDArray[Any], size: int, provenance: Mapping[str, Any]) -> None:
        self.tokens += closed.size
        self._documents += 1
        self._bytes += size
        self._files[0].write(closed.tobytes())
        self._files[1].write(self.tokens.to_bytes(8, "little"))
        self._records.add(provenance)

    def finish(self) -> Shard:
        self._records.close()
        stored = [
            Stored(name, file.size, file.sha256.hexdigest())
            for name, file in zip(self._names, self._files, strict=True)
        ]
        self._stack.close()
        return Shard(self.tokens, self._documents, self._bytes, *stored)

    def discard(self, kind: type[BaseException] | None, error: BaseException, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)


class _Hashed:
    """A file that knows the size and hash of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)
