"""Where a run's folder goes: whether there is room for it, and what stands in its place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from groundup.core.errors import StorageError
from groundup.core.files import storage_error, unused


def check(runs: str, folder: Path, parameters: int) -> None:
    """A run that cannot save its first checkpoint should not begin.

    Args:
        runs: the option that says where runs go.
        folder: of the run, which need not exist.
        parameters: of its network.

    Raises:
        StorageError: the disk is full, or nothing may be written there.
    """
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK) or _read_only(place):
        raise StorageError(f"runs={runs}", f"{place} cannot be written", "choose another folder with runs=...")
    needed = parameters * 4 * 4 * 2  # weights, two moments and an average in fp32
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StorageError(
            f"runs={runs}",
            f"{free / 1e6:.0f} MB free, and two checkpoints of this model need {needed / 1e6:.0f} MB",
            "free some space or choose another folder with runs=...",
        )


def set_aside(folder: Path) -> None:
    """Rename a run folder so that a fresh one can take its place; nothing is deleted."""
    try:
        folder.rename(unused(lambda number: folder.with_name(f"{folder.name}.{number}")))
    except OSError as error:
        raise storage_error(folder, error) from error


def _read_only(place: Path) -> bool:
    return bool(os.statvfs(place).f_flag & os.ST_RDONLY)
