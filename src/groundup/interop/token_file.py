"""Files of token ids as other trainers write them, read document by document; nothing is decoded here.

- Megatron-LM and gpt-neox: `NAME.bin` with `NAME.idx` beside it, which says where documents are.
- datatrove: `NAME.ds` with `NAME.ds.index` beside it, which says where they end.
- llm.c and modded-nanogpt: `NAME.bin` with a header of 256 int32; the end of a document stands before each.
- nanoGPT: `NAME.bin`, ids of two bytes and nothing else. Such a file says nothing of itself, so one must say so for it.

Memory goes with the longest document, not with the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import DataError

BLOCK = 1 << 20
"""Ids, or entries of an index, looked at together."""

LONGEST = 1 << 24
"""Ids of the longest document of a file without an index; a longer one means that another id ends documents."""

MEGATRON = b"MMIDIDX\x00\x00"
MEGATRON_TYPES = {1: "u1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
FIXED = 34
"""Bytes of a Megatron index before its arrays."""

HEADER, MAGIC = 256, {20240520: "<u2", 20240801: "<u4"}
BARE = {2: "<u2", 4: "<u4"}
LLMC = "llm.c"
REMEDY = "copy it again from where it was made"
Ids = NDArray[Any]


@dataclass(frozen=True)
class Index:
    """Where the documents of a file are, as arrays that stay on disk.

    Attributes:
        firsts: the first entry of each document in `begins`, and one past the last; None: a document is an entry.
        begins: in bytes, where each entry begins; None: where the one before ends.
        ends: in ids, where each entry ends; with `begins`, how many ids it has.
        width: bytes of an id.
    """

    firsts: Ids | None
    begins: Ids | None
    ends: Ids
    width: int

    def spans(self) -> Iterator[tuple[Ids, Ids]]:
        """First and last (exclusive) id of the documents that are not empty, some at a time."""
        if self.firsts is None or self.begins is None:
            for at in range(0, len(self.ends), BLOCK):
                stops = np.asarray(self.ends[at : at + BLOCK], dtype=np.int64)
                before = np.asarray(self.ends[max(0, at - 1) : at], dtype=np.int64) if at else np.zeros(1, np.int64)
                yield np.concatenate([before, stops[:-1]]), stops
            return
        for at in range(0, len(self.firsts) - 1, BLOCK):
            borders = np.asarray(self.firsts[at : at + BLOCK + 1])
            whole = np.flatnonzero(np.diff(borders))
            last = borders[whole + 1] - 1
            stops = np.asarray(self.begins)[last] // self.width + np.asarray(self.ends)[last]
            yield np.asarray(self.begins)[borders[whole]] // self.width, stops


@dataclass(frozen=True)
class TokenFile:
    """A file of ids that was recognised.

    Attributes:
        path: the file with the ids.
        form: whose form it has.
        dtype: of an id.
        skipped: bytes before the first id.
        index: where the documents are; None: where the tokenizer's end stands.
    """

    path: Path
    form: str
    dtype: str
    skipped: int = 0
    index: Index | None = None

    @property
    def tokens(self) -> int:
        """How many ids the file holds."""
        return (self.path.stat().st_size - self.skipped) // np.dtype(self.dtype).itemsize

    def open(self) -> Ids:
        """All ids, on disk."""
        if not self.tokens:
            return np.empty(0, dtype=self.dtype)
        return np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.skipped, shape=(self.tokens,))

    def documents(self, end: int) -> Iterator[tuple[int, Ids]]:
        """The offset and the ids of every document that is not empty, without any `end`.

        Args:
            end: the id that ends a document; one inside a document divides it.

        Raises:
            DataError: a file without an index in which `end` is not found where it should be.
        """
        ids = self.open()
        for start, stop in self._spans(ids, end):
            document = np.asarray(ids[start:stop])
            at = start
            for cut in [*(np.flatnonzero(document == end) + start).tolist(), stop]:
                if cut > at:
                    yield at, np.asarray(ids[at:cut])
                at = cut + 1

    def _spans(self, ids: Ids, end: int) -> Iterator[tuple[int, int]]:
        if self.index is not None:
            for starts, stops in self.index.spans():
                yield from zip(starts.tolist(), stops.tolist(), strict=True)
            return
        start, found = 0, False
        for block in range(0, len(ids), BLOCK):
            for stop in (np.flatnonzero(ids[block : block + BLOCK] == end) + block).tolist():
                yield start, stop
                start, found = stop + 1, True
            if block + BLOCK - start > LONGEST:
                break
        if not found or len(ids) - start > LONGEST:
            what = f"holds no end of a document (id {end}) in the {len(ids) - start:,} ids from {start:,} on"
            raise DataError(str(self.path), what, "give the tokenizer that made it, or the piece that ends a document")
        yield start, len(ids)


def documents(files: Sequence[TokenFile], end: int) -> Iterator[tuple[TokenFile, int, Ids]]:
    """The documents of several files; one that llm.c's writers cut at the end of a file is put together again.

    Raises:
        DataError: as `TokenFile.documents`.
    """
    held: tuple[TokenFile, int, Ids] | None = None
    for file in files:
        ids = file.open()
        goes_on = file.form == LLMC and len(ids) > 0 and int(ids[0]) != end
        open_at_end = file.form == LLMC and len(ids) > 0 and int(ids[-1]) != end
        for offset, document in file.documents(end):
            if held is not None and goes_on and offset == 0:
                held = (held[0], held[1], np.concatenate([held[2], document]))
                if len(document) < len(ids) or not open_at_end:
                    yield held
                    held = None
                continue
            if held is not None:
                yield held
                held = None
            if open_at_end and offset + len(document) == len(ids):
                held = (file, offset, document)
            else:
                yield file, offset, document
    if held is not None:
        yield held


def recognise(path: Path, bare: int | None = None) -> TokenFile:
    """What stands in a file.

    Args:
        path: the file with the ids, or its index.
        bare: bytes of an id of a `.bin` that has neither an index beside it nor a header.

    Raises:
        DataError: it is missing, of no known form, or damaged.
    """
    named, path = path, _data_of(path)
    try:
        if path.suffix == ".ds":
            found = _datatrove(path, path.with_name(f"{path.name}.index"))
        elif named.suffix == ".idx" or path.with_suffix(".idx").exists():
            found = _megatron(path, path.with_suffix(".idx"))
        else:
            found = _flat(path, bare)
        size = path.stat().st_size - found.skipped
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        remedy = "give the file with the ids, and keep its index beside it"
        raise DataError(str(error.filename or path), what, remedy) from None
    width = np.dtype(found.dtype).itemsize
    if size % width:
        raise DataError(str(path), f"is damaged: {size:,} bytes are no whole number of ids of {width}", REMEDY)
    if found.index is not None:
        _check_spans(found)
    return found


def _check_spans(found: TokenFile) -> None:
    """The documents of an index follow each other and are all that the file holds."""
    assert found.index is not None
    before = 0
    for starts, stops in found.index.spans():
        follows = len(starts) == 0 or (starts[0] >= before and (starts[1:] >= stops[:-1]).all())
        if not follows or (starts > stops).any():
            raise DataError(str(found.path), "has an index whose documents do not follow each other", REMEDY)
        before = int(stops[-1]) if len(stops) else before
    if before != found.tokens:
        what = f"is damaged, or its index is another file's: {found.tokens:,} ids here and {before:,} there"
        raise DataError(str(found.path), what, REMEDY)


def _data_of(path: Path) -> Path:
    """The file with the ids, given that or its index."""
    if path.suffix == ".idx":
        return path.with_suffix(".bin")
    if path.suffix in (".index", ".metadata") and path.with_suffix("").suffix == ".ds":
        return path.with_suffix("")
    if path.suffix not in (".bin", ".ds"):
        remedy = "give a .bin (Megatron, nanoGPT, llm.c) or a .ds (datatrove)"
        raise DataError(str(path), "is no file of ids that is known", remedy)
    return path


def _mapped(path: Path, dtype: str, count: int, offset: int) -> Ids:
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,)) if count else np.empty(0, dtype=dtype)


def _megatron(path: Path, index: Path) -> TokenFile:
    with index.open("rb") as file:
        raw = file.read(FIXED)
    if not raw.startswith(MEGATRON) or len(raw) < FIXED or raw[9] != 1:
        raise DataError(str(index), "is no Megatron index", "give the index that belongs to the .bin, or remove it")
    code, size = raw[17], index.stat().st_size
    sequences, documents = (int(np.frombuffer(raw, "<u8", 1, at)[0]) for at in (18, 26))
    if code not in MEGATRON_TYPES or documents < 1 or size < FIXED + sequences * 12 + documents * 8:
        raise DataError(str(index), f"is damaged, or holds no integers (type {code})", REMEDY)
    dtype = np.dtype(MEGATRON_TYPES[code])
    lengths = _mapped(index, "<i4", sequences, FIXED)
    begins = _mapped(index, "<i8", sequences, FIXED + sequences * 4)
    borders = _mapped(index, "<i8", documents, FIXED + sequences * 12)
    if borders[0] != 0 or borders[-1] != sequences:
        raise DataError(str(index), "is damaged: its documents are not made of its sequences", REMEDY)
    for at in range(0, max(sequences, documents), BLOCK):
        some, more = begins[at : at + BLOCK + 1], lengths[at : at + BLOCK + 1].astype(np.int64) * dtype.itemsize
        if (np.diff(borders[at : at + BLOCK + 1]) < 0).any() or (some % dtype.itemsize).any() or (more < 0).any():
            raise DataError(str(index), "is damaged: its numbers contradict each other", REMEDY)
        if (some[1:] != (some + more)[:-1]).any():
            raise DataError(str(index), "has sequences that do not follow each other", "write them in order first")
    return TokenFile(path, "Megatron", dtype.str, index=Index(borders, begins, lengths, dtype.itemsize))


def _datatrove(path: Path, index: Path) -> TokenFile:
    entries, odd = divmod(index.stat().st_size, 8)
    if odd or not entries:
        raise DataError(str(index), "is damaged: no whole number of document ends", REMEDY)
    ends = _mapped(index, "<u8", entries, 0)
    # Whether an id takes two bytes or four is written in a file that need not be there; the sizes say it too.
    width = next((width for width in BARE if int(ends[-1]) * width == path.stat().st_size), None)
    if width is None:
        sizes = f"{path.stat().st_size:,} bytes here, {int(ends[-1]):,} ids there"
        what = f"is damaged, or its index is another file's: {sizes}"
        raise DataError(str(path), what, REMEDY)
    return TokenFile(path, "datatrove", BARE[width], index=Index(None, None, ends, width))


def _flat(path: Path, bare: int | None) -> TokenFile:
    with path.open("rb") as file:
        head = np.frombuffer(file.read(HEADER * 4).ljust(12, b"\0")[:12], "<i4")
    if int(head[0]) in MAGIC:
        found = TokenFile(path, LLMC, MAGIC[int(head[0])], skipped=HEADER * 4)
        if path.stat().st_size != HEADER * 4 + int(head[2]) * np.dtype(found.dtype).itemsize:
            raise DataError(str(path), f"is damaged: its header speaks of {int(head[2]):,} ids", REMEDY)
        return found
    if bare is None:
        what = "has neither an index (.idx) beside it nor a header, so it does not say what an id is"
        raise DataError(str(path), what, "put its index beside it, or give --bare 2 if it is nanoGPT's")
    return TokenFile(path, "nanoGPT", BARE[bare])
