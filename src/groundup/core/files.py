"""Files that are either whole or not there, and their checksums; what stands in them is not its business."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from groundup.core import disk
from groundup.core.errors import DataError, StorageError

_BUFFER = 1 << 16
_REMEDIES = {
    errno.ENOSPC: "free some space or choose a folder on another disk",
    errno.EDQUOT: "free some of your quota or choose a folder on another disk",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.ENOTDIR: "choose another path: a file stands where a folder is needed",
    errno.EEXIST: "choose another path: a file stands where a folder is needed",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def storage_error(path: Path, error: OSError) -> StorageError:
    """What the operating system refused, in words that say what to do."""
    remedy = _REMEDIES.get(error.errno or 0, "check the disk and the path")
    return StorageError(str(path), f"cannot be written ({error.strerror or error})", remedy)


def make_folder(path: Path) -> Path:
    """Create a folder and those above it where missing, durably.

    Raises:
        StorageError: it cannot be.
    """
    path = Path(path)
    if path.is_dir():
        return path
    try:
        if not path.parent.is_dir():
            make_folder(path.parent)
        with suppress(FileExistsError):  # another process may just have made it; a file is told of below
            disk.make(path)
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        disk.sync_names(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    return path


def remove_folder(path: Path) -> None:
    """Delete a folder and all that is in it; what is not there is no error.

    Raises:
        OSError: something cannot be deleted.
    """
    with suppress(FileNotFoundError):
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                remove_folder(Path(entry.path))
            else:
                disk.unlink(Path(entry.path))
        disk.remove(path)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the system can.

    Raises:
        StorageError: the disk refused.
    """
    try:
        disk.sync_names(path)
    except OSError as error:
        raise storage_error(path, error) from error


class _Raw(io.RawIOBase):
    """A new file, written from its start to its end by the calls of `disk`."""

    def __init__(self, path: Path) -> None:
        self._descriptor = disk.create(path)
        self._done = 0

    def write(self, data: Any) -> int:
        with memoryview(data).cast("B") as view:
            written = disk.write(self._descriptor, view)
        self._done += written
        return written

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._done

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        if not self.closed:
            super().close()
            disk.close(self._descriptor)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new binary file to be written on and on; its bytes are on disk once the block ends well, not its name.

    Raises:
        OSError: the system refused.
    """
    with cast(BinaryIO, io.BufferedWriter(_Raw(path), _BUFFER)) as file:
        yield file
        file.flush()
        disk.sync(file.fileno())


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new binary file that takes the name `path` only once the block ends well and its bytes are on disk.

    Whatever happens before that leaves what stood at `path` as it was.

    Raises:
        StorageError: it cannot be written.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with new_file(temporary) as file:
            yield file
        disk.rename(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            disk.unlink(temporary)
        if isinstance(error, OSError):
            raise storage_error(path, error) from error
        raise
    sync_folder(path.parent)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replace the file at `path` by `data` (text as UTF-8), durably and at once, making its folder if need be.

    Raises:
        StorageError: it cannot be written; the former file is untouched.
    """
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def atomic_json(path: Path, value: Any) -> None:
    """`atomic_write` of a value as indented JSON in key order given.

    Raises:
        StorageError: it cannot be written.
        TypeError, ValueError: the value is no JSON.
    """
    atomic_write(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def append_json(path: Path, value: Any) -> None:
    """Add a value as a line of JSON to the end of a file, durably, making its folder if need be.

    Lines that several processes of a machine add at once stand one behind the other.

    Raises:
        StorageError: it cannot be written.
    """
    make_folder(path.parent)
    try:
        with path.open("ab", buffering=0) as file:
            file.write((json.dumps(value, ensure_ascii=False) + "\n").encode())
            os.fsync(file.fileno())
    except OSError as error:
        raise storage_error(path, error) from error


def read_lines(path: Path) -> list[Any]:
    """The values of a file that `append_json` wrote, none where there is no file; a line that broke off is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def read_json(path: Path, remedy: str = "restore it from a copy or make it again") -> Any:
    """The value of a JSON file.

    Args:
        path: the file.
        remedy: what a user can do when it is missing or damaged.

    Raises:
        DataError: it is missing, unreadable, or not JSON in UTF-8.
    """
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(str(path), "is missing", remedy) from None
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error.strerror or error})", remedy) from error
    except (ValueError, RecursionError) as error:
        raise DataError(str(path), f"is damaged: not JSON ({error})", remedy) from error


def unused(name: Callable[[int], Path]) -> Path:
    """The first of `name(1)`, `name(2)`, ... where nothing stands yet."""
    return next(path for number in itertools.count(1) if not (path := name(number)).exists())


def entry_of(path: Path) -> dict[str, Any]:
    """SHA-256 and size of a file, as manifests have them.

    Raises:
        DataError: it is missing or cannot be read.
    """
    return {"sha256": checksum(path), "size": path.stat().st_size}


def checksum(path: Path) -> str:
    """The SHA-256 of a file as 64 hexadecimal digits, read in blocks.

    Raises:
        DataError: it is missing or cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror or error})"
        raise DataError(str(path), what, "restore it from a copy or make it again") from error
