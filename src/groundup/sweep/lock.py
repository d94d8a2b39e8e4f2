"""Locks that the kernel lets go of however their holder ends; what they guard is not known here."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundup.core.files import storage_error


def take(path: Path, *, wait: bool) -> int | None:
    """A descriptor that holds the file's lock until it is closed, here and in every child it was passed to.

    It is flock's lock, which belongs to the open file: a trial that outlives its searcher keeps it.

    Args:
        path: the lock's file, made where missing.
        wait: until it is free; without, None says that it is not.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file's lock in this block, waiting for it."""
    descriptor = take(path, wait=True)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)
