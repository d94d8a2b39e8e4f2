"""A folder that is made whole or not at all; what comes into it is not known here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from groundup.core.errors import StorageError
from groundup.core.files import make_folder, storage_error


@contextmanager
def made(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place once the block ends well, and is removed otherwise.

    Each call has a place of its own, so of two at once the first to end wins and the other is told.

    Raises:
        StorageError: something stands at `folder`, or it cannot be written.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100  # `resolve` would follow a link that is to be refused
    try:
        if folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise StorageError(str(folder), "holds something already", "give a new folder, or remove that one")
        created = [parent for parent in folder.parents if not parent.exists()]
        make_folder(folder.parent)
        place = Path(tempfile.mkdtemp(prefix=f".{folder.name[:100]}.", dir=folder.parent))
    except OSError as error:
        raise storage_error(folder, error) from error
    done = False
    try:
        yield place
        try:
            place.chmod(0o755)
            if folder.is_dir():
                folder.rmdir()
            place.rename(folder)
        except OSError as error:
            raise storage_error(folder, error) from error
        done = True
    finally:
        if not done:
            shutil.rmtree(place, ignore_errors=True)
            with suppress(OSError):
                for parent in created:
                    parent.rmdir()
