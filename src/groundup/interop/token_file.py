"""Files of token ids as other trainers write them, read as documents in constant memory; nothing is decoded here.

- Megatron-LM and gpt-neox: `NAME.bin` with `NAME.idx` beside it (documents are in the index).
- datatrove: `NAME.ds` with `NAME.ds.index` and, for four-byte ids, `NAME.ds.metadata` beside it.
- llm.c and modded-nanogpt: `NAME.bin` with a header of 256 int32.
- nanoGPT: `NAME.bin`, uint16 and nothing else.

Where the file does not say where documents end, the id `end` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import DataError

BLOCK = 1 << 24
"""Ids looked at together where documents are found by their end."""

MEGATRON = b"MMIDIDX\x00\x00"
MEGATRON_TYPES = {1: "u1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
HEADER, MAGIC = 256, {20240520: "<u2", 20240801: "<u4"}
REMEDY = "copy it again from where it was made"


@dataclass(frozen=True)
class TokenFile:
    """A file of ids that was recognised.

    Attributes:
        path: the file with the ids.
        form: whose form it has.
        dtype: of an id.
        skipped: bytes before the first id.
        ends: where each document ends, in ids from the first; None: where `end` stands.
        starts: where each begins, where that is not simply the end of the one before.
    """

    path: Path
    form: str
    dtype: str
    skipped: int = 0
    ends: NDArray[np.int64] | None = None
    starts: NDArray[np.int64] | None = None

    @property
    def tokens(self) -> int:
        """How many ids the file holds."""
        return (self.path.stat().st_size - self.skipped) // np.dtype(self.dtype).itemsize

    def documents(self, end: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """The offset and the ids of every document that is not empty, without any `end`.

        Args:
            end: the id that ends a document; one inside a document divides it.
        """
        if not self.tokens:
            return
        ids = np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.skipped, shape=(self.tokens,))
        for start, stop in self._spans(ids, end):
            document = np.asarray(ids[start:stop])
            at = start
            for cut in [*(np.flatnonzero(document == end) + start).tolist(), stop]:
                if cut > at:
                    yield at, np.asarray(ids[at:cut])
                at = cut + 1

    def _spans(self, ids: NDArray[Any], end: int) -> Iterator[tuple[int, int]]:
        if self.ends is not None:
            starts = self.starts if self.starts is not None else np.concatenate([[0], self.ends[:-1]])
            yield from zip(starts.tolist(), self.ends.tolist(), strict=True)
            return
        start = 0
        for block in range(0, len(ids), BLOCK):
            for stop in (np.flatnonzero(ids[block : block + BLOCK] == end) + block).tolist():
                yield start, stop
                start = stop + 1
        yield start, len(ids)


def recognise(path: Path) -> TokenFile:
    """What stands in a file.

    Raises:
        DataError: it is missing, of no known form, or damaged.
    """
    path = _data_of(path)
    try:
        if path.suffix == ".ds":
            found = _datatrove(path)
        elif path.with_suffix(".idx").is_file():
            found = _megatron(path, path.with_suffix(".idx"))
        else:
            found = _flat(path)
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise DataError(
            str(error.filename or path), what, "give the file with the ids, and keep its index beside it"
        ) from None
    size, width = path.stat().st_size - found.skipped, np.dtype(found.dtype).itemsize
    if size < 0 or size % width:
        raise DataError(str(path), f"is damaged: {size:,} bytes are no whole number of ids of {width}", REMEDY)
    if found.ends is not None and len(found.ends) and not _sound(found):
        raise DataError(str(path), "is damaged, or its index is another file's: documents lie outside it", REMEDY)
    return found


def _data_of(path: Path) -> Path:
    """The file with the ids, given that or its index."""
    if path.suffix == ".idx":
        return path.with_suffix(".bin")
    if path.suffix in (".index", ".metadata") and path.with_suffix("").suffix == ".ds":
        return path.with_suffix("")
    if path.suffix not in (".bin", ".ds"):
        raise DataError(
            str(path), "is no file of ids that is known", "give a .bin (Megatron, nanoGPT, llm.c) or a .ds (datatrove)"
        )
    return path


def _sound(found: TokenFile) -> bool:
    assert found.ends is not None
    starts = found.starts if found.starts is not None else np.concatenate([[0], found.ends[:-1]])
    return bool(starts.min() >= 0 and (starts <= found.ends).all() and found.ends.max() <= found.tokens)


def _megatron(path: Path, index: Path) -> TokenFile:
    raw = index.read_bytes()
    if not raw.startswith(MEGATRON) or len(raw) < 34:
        raise DataError(str(index), "is no Megatron index", "give the index that belongs to the .bin, or remove it")
    code = raw[17]
    sequences, documents = (int(np.frombuffer(raw, "<u8", 1, at)[0]) for at in (18, 26))
    if code not in MEGATRON_TYPES or len(raw) < 34 + sequences * 12 + documents * 8:
        raise DataError(str(index), f"is damaged, or holds no integers (type {code})", REMEDY)
    dtype = np.dtype(MEGATRON_TYPES[code])
    lengths = np.frombuffer(raw, "<i4", sequences, 34).astype(np.int64)
    begins = np.frombuffer(raw, "<i8", sequences, 34 + sequences * 4) // dtype.itemsize
    borders = np.frombuffer(raw, "<i8", documents, 34 + sequences * 12)
    if documents < 1 or borders[0] != 0 or borders[-1] != sequences or (np.diff(borders) < 0).any():
        raise DataError(str(index), "is damaged: its documents are not made of its sequences", REMEDY)
    if not (begins[1:] == (begins + lengths)[:-1]).all():
        raise DataError(str(index), "has sequences that do not follow each other", "write them in order first")
    whole = np.flatnonzero(np.diff(borders))
    starts, ends = begins[borders[whole]], (begins + lengths)[borders[whole + 1] - 1]
    return TokenFile(path, "Megatron", dtype.str, ends=ends, starts=starts)


def _datatrove(path: Path) -> TokenFile:
    index, metadata = path.with_name(f"{path.name}.index"), path.with_name(f"{path.name}.metadata")
    raw = index.read_bytes()
    if len(raw) % 8:
        raise DataError(str(index), "is damaged: no whole number of document ends", REMEDY)
    width = 2
    if metadata.is_file():
        said = metadata.read_text(encoding="utf-8").split("\n", 1)[0].rpartition("|")[2]
        if said not in ("2", "4"):
            raise DataError(str(metadata), f"says that an id takes {said!r} bytes", "restore it from a copy")
        width = int(said)
    return TokenFile(path, "datatrove", f"<u{width}", ends=np.frombuffer(raw, "<u8").astype(np.int64))


def _flat(path: Path) -> TokenFile:
    with path.open("rb") as file:
        head = np.frombuffer(file.read(HEADER * 4).ljust(12, b"\0")[:12], "<i4")
    if int(head[0]) not in MAGIC:
        return TokenFile(path, "nanoGPT", "<u2")
    found = TokenFile(path, "llm.c", MAGIC[int(head[0])], skipped=HEADER * 4)
    if path.stat().st_size != HEADER * 4 + int(head[2]) * np.dtype(found.dtype).itemsize:
        raise DataError(str(path), f"is damaged: its header speaks of {int(head[2]):,} ids", REMEDY)
    return found
