"""One process at a time in a run folder; what it does there is not known here."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundup.core import ranks
from groundup.core.errors import StorageError


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process (rank 0 of a job); the system lets go of it however the process ends.

    Raises:
        StorageError: another process trains in it.
    """
    if ranks.rank():
        yield
        return
    path = folder / ".lock"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, reading workers do not inherit it
        except OSError:
            owner = os.read(descriptor, 32).decode() or "unknown"
            raise StorageError(
                str(folder), f"process {owner} trains here already", "wait for it, or stop it first"
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
