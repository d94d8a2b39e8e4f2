"""A data folder that is whole or does not look it: made aside, then put in place; it does not know how it is made."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from groundup.core.errors import StorageError
from groundup.core.files import make_folder, storage_error, sync_folder

CONFIG, MANIFEST, PARTIAL = "config.json", "manifest.json", ".partial"
MAKER = "groundup_prepare"
"""The key that marks a data folder's config file, with the version that wrote it."""
OWN = (CONFIG, "tokenizer", "train", "held_out", "evaluation")
"""What a data folder holds beside its manifest. The first is there as long as any of the others is."""


class Standing(Enum):
    """What stands at a path."""

    NOTHING = "nothing, or what an interrupted run left"
    WHOLE = "a data folder with its manifest"
    FOREIGN = "something else"


def standing(folder: Path) -> Standing:
    """What stands at a path."""
    if not folder.exists():
        return Standing.NOTHING
    if not folder.is_dir():
        return Standing.FOREIGN
    names = {path.name for path in folder.iterdir()} - {PARTIAL}
    if not names:
        return Standing.NOTHING
    if not _is_ours(folder / CONFIG):
        return Standing.FOREIGN
    return Standing.WHOLE if MANIFEST in names else Standing.NOTHING


def _is_ours(path: Path) -> bool:
    """Whether a config file is one of prepare's: nothing beside another is ever replaced."""
    try:
        return MAKER in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError):
        return False


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A place to make the contents of a data folder, which they enter only once the block ends well.

    The manifest enters last and leaves first, so a folder with one is whole at any moment. When the block fails,
    what stood at `folder` is as it was; a process killed inside it leaves a `.partial` that the next one clears.

    Raises:
        StorageError: the folder cannot be written, or another process is writing it.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    place = make_folder(folder / PARTIAL)
    lock = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                str(folder), "another prepare.py is writing it", "wait, or give another path=..."
            ) from None
        try:
            _clear(place)
            yield place
            _publish(place, folder)
        except BaseException as error:
            shutil.rmtree(place, ignore_errors=True)
            with suppress(OSError):
                for path in created:
                    path.rmdir()
            if isinstance(error, OSError):
                raise storage_error(folder, error) from error
            raise
    finally:
        os.close(lock)


def _publish(place: Path, folder: Path) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)
    sync_folder(folder)
    for name in OWN:
        made, target = place / name, folder / name
        if target.is_dir():
            shutil.rmtree(target)
        if made.exists():
            made.replace(target)
    sync_folder(folder)
    (place / MANIFEST).replace(folder / MANIFEST)
    _clear(place)
    place.rmdir()
    sync_folder(folder)


def _clear(place: Path) -> None:
    for path in place.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
