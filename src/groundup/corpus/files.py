"""Local files as lines of checked UTF-8, plain or compressed; it does not know what the lines mean."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from groundup.core.errors import DataError

PACKED = (".gz", ".zst")
OTHER_KINDS = {
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


def expand(given: Sequence[str], suffixes: Sequence[str]) -> list[Path]:
    """The files that paths, globs and folders name, sorted by name, each once.

    A folder stands for the files anywhere below it that have one of the suffixes.

    Raises:
        DataError: nothing is there, or a file named has another suffix.
    """
    found: set[Path] = set()
    for text in given:
        path = Path(text).expanduser()
        if path.is_dir():
            inside = [p for p in path.rglob("*") if p.is_file() and suffix_of(p) in suffixes]
            if not inside:
                raise DataError(str(path), f"no file below it ends in {', '.join(suffixes)}", "give another path")
        elif not path.exists() and any(mark in text for mark in "*?["):
            inside = [p for p in _glob(path) if p.is_file()]
            if not inside:
                raise DataError(text, "matches no file", "correct the pattern; quote it for the shell")
        else:
            inside = [path]
        found.update(inside)
    for path in found:
        if not path.exists():
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            close = difflib.get_close_matches(path.name, beside, n=1)
            near = f"did you mean {close[0]}?" if close else "give the path of a file or folder"
            raise DataError(str(path), "is missing", near)
        if suffix_of(path) not in suffixes:
            other = OTHER_KINDS.get(suffix_of(path))
            what = f"ends in {suffix_of(path) or 'nothing'}; read here: {', '.join(suffixes)}, also .gz and .zst"
            raise DataError(str(path), what, f"choose source=[{other}]" if other else "rename or convert it")
    return sorted(found)


def _glob(path: Path) -> Iterator[Path]:
    root = Path(path.anchor)
    return root.glob(str(path.relative_to(root))) if path.is_absolute() else root.glob(str(path))


def suffix_of(path: Path) -> str:
    """The suffix that says what a file holds, in lower case, without that of its compression."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return Path(name).suffix


def stamp(files: Iterable[Path]) -> dict[str, Any]:
    """How many files there are, how large, and a hash of their names, sizes and times."""
    count, total, hashed = 0, 0, hashlib.sha256()
    for path in files:
        state = path.stat()
        count, total = count + 1, total + state.st_size
        hashed.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return {"files": count, "bytes": total, "state": hashed.hexdigest()[:16]}


def check_readable(files: Sequence[Path]) -> None:
    """Open every file and read the start of it.

    Raises:
        DataError: one cannot be opened or is damaged at the start, or all are empty.
    """
    some = False
    for path in files:
        with opened(path) as file:
            some = bool(file.read(1)) or some
    if not some:
        where = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        raise DataError(where, "holds no text (0 bytes)", "give files that have some")


class Zstandard(io.RawIOBase):
    """A Zstandard stream of any number of frames, decompressed; unlike the library's reader it tells a cut one."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._inside = False
        self._ready = b""
        self._rest = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer.

        Raises:
            EOFError: the last frame is cut.
            zstandard.ZstdError: a frame is damaged.
        """
        while not self._ready:
            chunk = self._rest or self._raw.read(1 << 17)
            if not chunk:
                if self._inside:
                    raise EOFError("the last frame is cut")
                return 0
            self._ready, self._inside, self._rest = self._frame.decompress(chunk), True, b""
            if self._frame.eof:
                self._rest, self._inside = self._frame.unused_data, False
                self._frame = zstandard.ZstdDecompressor().decompressobj()
        taken = min(len(buffer), len(self._ready))
        buffer[:taken] = self._ready[:taken]
        self._ready = self._ready[taken:]
        return taken


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file open for reading, decompressed by its suffix.

    Raises:
        DataError: it cannot be opened, or proves damaged inside the block.
    """
    try:
        with path.open("rb") as raw:
            if path.name.lower().endswith(".gz"):
                with gzip.GzipFile(fileobj=raw) as file:
                    yield cast(BinaryIO, file)
            elif path.name.lower().endswith(".zst"):
                yield cast(BinaryIO, io.BufferedReader(Zstandard(raw), 1 << 20))
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise DataError(str(path), f"is damaged ({error})", "restore it from a copy") from None
    except OSError as error:
        if error.errno is None:
            raise
        raise DataError(str(path), f"cannot be read ({error.strerror})", "check the file and your rights") from None


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers from 1, line ends kept and a byte-order mark at the start left out.

    Raises:
        DataError: the file cannot be read or holds what is no UTF-8, naming the line.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            yield number, decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, path, number)


def decode(content: bytes, path: Path, line: int = 1) -> str:
    """Bytes of a file as text.

    Args:
        content: the bytes.
        path: the file, for the error.
        line: the number of the line the bytes begin with.

    Raises:
        DataError: they are no UTF-8; it names the line.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        at = line + content.count(b"\n", 0, error.start)
        what = f"invalid UTF-8 (byte 0x{content[error.start]:02x})"
        raise DataError(f"{path}:{at}", what, "convert the file to UTF-8, e.g. with iconv") from None
