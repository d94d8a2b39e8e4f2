"""Where the files of a data folder come from: a local folder, or any URL fsspec knows behind a bounded local cache.

It moves bytes and checks that they arrived; what stands in the files is not its business.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import fsspec  # type: ignore[import-untyped]  # it ships no types
from filelock import FileLock

from groundup.core.errors import DataError, StorageError
from groundup.core.files import atomic_file, atomic_write, make_folder, storage_error

CACHE_BYTES = 64 << 30
"""How much of a remote folder is kept locally where nothing else is said."""

_BLOCK = 1 << 23
_REMEDY = "prepare the data again with `python prepare.py fresh=true`"


@runtime_checkable
class Storage(Protocol):
    """A folder of files that do not change."""

    local: bool
    limit: int | None

    def describe(self, name: str) -> str:
        """The full name of a file, for people."""

    def read(self, name: str) -> bytes:
        """A small file whole. Raises OSError as `open` does."""

    def small(self, name: str) -> Path:
        """A local path of a small file that no manifest describes, as it is now. Raises DataError, StorageError."""

    def size(self, name: str) -> int:
        """The bytes of a file. Raises OSError as `open` does."""

    def path(self, name: str, size: int, sha256: str) -> Path:
        """A local path with the contents of a file, fetched if need be. Raises DataError."""

    def ahead(self, files: Iterable[tuple[str, int, str]]) -> None:
        """Say which files (name, size, sha256) will be wanted soon."""


def open_storage(folder: str | Path, cache: str | Path | None = None, limit: int = CACHE_BYTES) -> Storage:
    """The storage of a folder.

    Args:
        folder: a path, or a URL such as "s3://bucket/folder"; "file://" is local.
        cache: the local folder for what is fetched; None takes `groundup` in the user's cache folder.
        limit: the most bytes the cache may hold.

    Raises:
        DataError: a URL whose file system is unknown or not installed.
    """
    text = str(folder)
    if "://" not in text:
        return Local(Path(text))
    if text.startswith("file://"):
        return Local(Path(text.removeprefix("file://")))
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "groundup"
    return Remote(text, Path(cache) if cache is not None else home, limit)


class Local:
    """Files of a local folder, used where they are."""

    local = True
    limit: int | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def describe(self, name: str) -> str:
        """As `Storage`."""
        return str(self.folder / name)

    def read(self, name: str) -> bytes:
        """As `Storage`."""
        return (self.folder / name).read_bytes()

    def small(self, name: str) -> Path:
        """As `Storage`."""
        path = self.folder / name
        if not path.is_file():
            raise DataError(str(path), "is missing", _REMEDY)
        return path

    def size(self, name: str) -> int:
        """As `Storage`."""
        return (self.folder / name).stat().st_size

    def path(self, name: str, size: int, sha256: str) -> Path:  # noqa: ARG002
        """As `Storage`; only the size is checked, since the file is not copied."""
        path = self.folder / name
        try:
            found = path.stat().st_size
        except OSError as error:
            what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise DataError(str(path), what, _REMEDY) from error
        if found != size:
            what = f"is {'truncated' if found < size else 'too long'}: {found:,} bytes instead of {size:,}"
            raise DataError(str(path), what, _REMEDY)
        return path

    def ahead(self, files: Iterable[tuple[str, int, str]]) -> None:
        """As `Storage`; the system's page cache does this for local files."""


class Remote:
    """Files of a URL, fetched on first use into a cache that drops what was used longest ago.

    Processes share a cache: a file is fetched by one of them and appears whole, checked against its hash. Dropping a
    file that another process has mapped does it no harm.
    """

    local = False

    def __init__(self, url: str, cache: Path, limit: int) -> None:
        self.url = url.rstrip("/")
        self.limit: int | None = limit
        self._cache = cache / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self._whole = cache
        self._bytes = limit
        try:
            self._system, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise DataError(url, f"cannot be opened ({error})", "install what it names, or use a local path") from error
        self._wanted: queue.Queue[tuple[str, int, str]] | None = None
        self._asked: set[str] = set()
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "cache": self._whole, "limit": self._bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # a copy in another process opens its own connections

    def describe(self, name: str) -> str:
        """As `Storage`."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes:
        """As `Storage`."""
        with _as_os_error():
            return bytes(self._system.cat_file(f"{self._root}/{name}"))

    def small(self, name: str) -> Path:
        """As `Storage`; it is fetched every time, since nothing here says whether it has changed."""
        path = self._cache / name
        try:
            content = self.read(name)
        except OSError as error:
            raise DataError(self.describe(name), *_absent(error)) from error
        atomic_write(path, content)
        return path

    def size(self, name: str) -> int:
        """As `Storage`."""
        with _as_os_error():
            return int(self._system.size(f"{self._root}/{name}"))

    def path(self, name: str, size: int, sha256: str) -> Path:
        """As `Storage`."""
        path = self._cache / name
        if self._present(path, size):
            return path
        if size > self._bytes:
            what = f"is larger ({size:,} bytes) than the cache may be ({self._bytes:,})"
            raise DataError(self.describe(name), what, "allow a larger cache")
        make_folder(path.parent)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not self._present(path, size):
                self._make_room(size)
                self._fetch(name, path, size, sha256)
        return path

    def ahead(self, files: Iterable[tuple[str, int, str]]) -> None:
        """As `Storage`: a thread fetches them one by one; what fails is tried again when it is needed."""
        if self._wanted is None or self._owner != os.getpid():
            self._owner, self._asked, self._wanted = os.getpid(), set(), queue.Queue()
            threading.Thread(target=self._read_ahead, args=(self._wanted,), daemon=True, name="read-ahead").start()
        for item in files:
            if item[0] not in self._asked and not (self._cache / item[0]).exists():
                self._asked.add(item[0])
                self._wanted.put(item)

    def _read_ahead(self, wanted: queue.Queue[tuple[str, int, str]]) -> None:
        while True:
            name, size, sha256 = wanted.get()
            try:
                self.path(name, size, sha256)
            except (DataError, StorageError, OSError):
                # Whoever needs the file meets the same error and can say what it was needed for.
                continue
            finally:
                self._asked.discard(name)
                wanted.task_done()

    def _present(self, path: Path, size: int) -> bool:
        try:
            if path.stat().st_size != size:
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(path, error) from error
        return True

    def _make_room(self, size: int) -> None:
        held = []
        for path in self._cache.rglob("[!.]*"):
            try:
                if path.is_file():
                    held.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            except FileNotFoundError:
                continue
        total = sum(item[1] for item in held)
        for _, freed, path in sorted(held):
            if total + size <= self._bytes:
                break
            path.unlink(missing_ok=True)
            total -= freed

    def _fetch(self, name: str, path: Path, size: int, sha256: str) -> None:
        digest, length = hashlib.sha256(), 0
        with atomic_file(path) as copy:
            for block in self._blocks(name):
                copy.write(block)
                digest.update(block)
                length += len(block)
            if length != size or digest.hexdigest() != sha256:
                what = f"is damaged: {length:,} bytes whose checksum differs" if length == size else "has another size"
                raise DataError(self.describe(name), what, _REMEDY)

    def _blocks(self, name: str) -> Iterable[bytes]:
        try:
            with _as_os_error(), self._system.open(f"{self._root}/{name}", "rb") as file:
                while block := file.read(_BLOCK):
                    yield bytes(block)
        except OSError as error:
            raise DataError(self.describe(name), *_absent(error)) from error


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Errors of a remote file system as OSError; some protocols raise their client's own (HTTP's 403, say)."""
    try:
        yield
    except (OSError, DataError, StorageError):
        raise
    except Exception as error:  # each protocol has its own
        raise OSError(errno.EIO, str(error)) from error


def _absent(error: OSError) -> tuple[str, str]:
    """What is wrong with a remote file that cannot be read, and the remedy."""
    what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be fetched ({error})"
    return what, "check the URL and the connection"
