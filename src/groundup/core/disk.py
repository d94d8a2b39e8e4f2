"""The calls by which bytes and names reach a disk: whatever must survive a loss of power is written by these alone.

So a list of these calls is the whole of what a writer did, and a test can stop it at each, or lose what was not synced.
"""

from __future__ import annotations

import os
from pathlib import Path


def make(path: Path) -> None:
    """A new folder. Raises OSError as `Path.mkdir`."""
    path.mkdir()


def create(path: Path) -> int:
    """A new file, open for writing. Raises OSError as `os.open`."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def write(descriptor: int, data: memoryview) -> int:
    """Append bytes; gives how many went in. Raises OSError as `os.write`."""
    return os.write(descriptor, data)


def sync(descriptor: int) -> None:
    """Wait until a file's bytes, or a folder's names, would survive a loss of power. Raises OSError as `os.fsync`."""
    os.fsync(descriptor)


def close(descriptor: int) -> None:
    """Let go of a file. Raises OSError as `os.close`."""
    os.close(descriptor)


def sync_names(path: Path) -> None:
    """`sync` of a folder, where the system can. Raises OSError as `os.fsync`."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(path: Path, name: Path) -> None:
    """Give a file or folder another name; a file that bore it is gone at once. Raises OSError as `Path.replace`."""
    path.replace(name)


def unlink(path: Path) -> None:
    """Take a file's name away. Raises OSError as `Path.unlink`."""
    path.unlink()


def remove(path: Path) -> None:
    """Take an empty folder's name away. Raises OSError as `Path.rmdir`."""
    path.rmdir()
