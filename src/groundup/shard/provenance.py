"""One small JSON record per document, compressed, any of them found without reading the rest; what it says is free.

The file is in the seekable format of Zstandard (contrib/seekable_format of facebook/zstd): frames of whole JSON
lines, then a table of their sizes in a frame that ordinary readers skip, so `zstdcat` shows it as JSON lines.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import zstandard

from groundup.core.errors import DataError

FRAME = 512
"""Documents per frame."""

_SKIPPABLE = 0x184D2A5E
_SEEKABLE = 0x8F92EAB1
_ENTRY = struct.Struct("<II")
_FOOTER = struct.Struct("<IBI")
_REMEDY = "prepare the data again with `python prepare.py fresh=true`"


class Sink(Protocol):
    """What can be written to."""

    def write(self, data: bytes, /) -> int:
        """Append all of `data`."""


class Writer:
    """Appends records to an open binary file, holding one frame in memory."""

    def __init__(self, file: Sink) -> None:
        self._file = file
        self._lines: list[bytes] = []
        self._entries: list[tuple[int, int]] = []
        self._compressor = zstandard.ZstdCompressor(level=6)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append the record of the next document."""
        self._lines.append(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        if len(self._lines) == FRAME:
            self._flush()

    def close(self) -> None:
        """Write what is left and the table of frames; the file itself stays open."""
        self._flush()
        table = b"".join(_ENTRY.pack(*entry) for entry in self._entries)
        table += _FOOTER.pack(len(self._entries), 0, _SEEKABLE)
        self._file.write(struct.pack("<II", _SKIPPABLE, len(table)) + table)

    def _flush(self) -> None:
        if self._lines:
            plain = b"".join(self._lines)
            packed = self._compressor.compress(plain)
            self._file.write(packed)
            self._entries.append((len(packed), len(plain)))
            self._lines = []


class Reader:
    """Finds the record of any document of a file that `Writer` wrote.

    Raises:
        DataError: the file is missing, unreadable or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._frame: tuple[int, list[bytes]] = (-1, [])
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _FOOTER.size))
                frames, _, magic = _FOOTER.unpack(file.read())
                if magic != _SEEKABLE:
                    raise ValueError("no table of frames")
                file.seek(size - _FOOTER.size - frames * _ENTRY.size)
                self._sizes = [entry[0] for entry in _ENTRY.iter_unpack(file.read(frames * _ENTRY.size))]
        except (OSError, ValueError, struct.error) as error:
            raise DataError(str(path), f"cannot be read as provenance ({error})", _REMEDY) from error

    def record(self, document: int) -> dict[str, Any]:
        """The record of the document of this number in the file.

        Raises:
            DataError: the file is damaged or has no such document.
        """
        frame, line = divmod(document, FRAME)
        try:
            if self._frame[0] != frame:
                with self._path.open("rb") as file:
                    file.seek(sum(self._sizes[:frame]))
                    packed = file.read(self._sizes[frame])
                self._frame = (frame, zstandard.ZstdDecompressor().decompress(packed).splitlines())
            found = json.loads(self._frame[1][line])
        except (OSError, ValueError, IndexError, zstandard.ZstdError) as error:
            raise DataError(str(self._path), f"holds no record {document} ({error})", _REMEDY) from error
        return dict(found)
