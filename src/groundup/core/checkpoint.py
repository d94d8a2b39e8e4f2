"""Checkpoint directories: `step-N/`, whole or absent, verified by hash; what their files mean is not known here.

A checkpoint is written under a partial name, the hashes of its files into `manifest.json`, a `COMPLETE` marker
last, and only then it is given its name. A reader takes the newest one whose files match their hashes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from groundup.core import disk
from groundup.core.errors import CheckpointError, DataError
from groundup.core.files import (
    atomic_json,
    atomic_write,
    checksum,
    make_folder,
    read_json,
    remove_folder,
    storage_error,
)

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
MARKER = "COMPLETE"


def path_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step stands in a run folder."""
    return run / FOLDER / f"step-{step}"


def begin(run: Path, step: int) -> Path:
    """Make the empty partial folder into which every rank writes; rank 0 calls this, the others use the path.

    What writers that were stopped have left is cleared away.

    Raises:
        StorageError: it cannot be made.
    """
    place = make_folder(run / FOLDER)
    partial = partial_of(run, step)
    try:
        for left in place.glob(".step-*"):
            match = _REPLACED.fullmatch(left.name)
            if match is not None and not (place / match[1]).exists():
                disk.rename(left, place / match[1])
            else:
                remove_folder(left)
        disk.make(partial)
    except OSError as error:
        raise storage_error(partial, error) from error
    return partial


def partial_of(run: Path, step: int) -> Path:
    """The name under which a checkpoint is written."""
    return run / FOLDER / f".step-{step}.partial"


def commit(run: Path, step: int, files: Mapping[str, Mapping[str, Any]]) -> Path:
    """Turn the partial folder into the checkpoint of its step, durably; one at that step before is replaced.

    Args:
        run: its folder.
        step: as given to `begin`.
        files: for each file the `sha256` and `size` of what was to be written; its bytes must be on disk by now.

    Raises:
        StorageError: the disk refused; checkpoints that were complete stay so.
    """
    partial, final = partial_of(run, step), path_of(run, step)
    try:
        atomic_json(partial / MANIFEST, {"step": step, "files": dict(sorted(files.items()))})
        atomic_write(partial / MARKER, checksum(partial / MANIFEST) + "\n")  # the names of all files are on disk before
        replaced = final.with_name(f".{final.name}.replaced")  # until the new one is there, readers take it
        if final.exists():
            disk.rename(final, replaced)
        disk.rename(partial, final)
        disk.sync_names(final.parent)
        remove_folder(replaced)
    except OSError as error:
        raise storage_error(final, error) from error
    return final


def verify(folder: Path) -> None:
    """Check that a checkpoint is complete and every byte is the one that was written.

    Raises:
        CheckpointError: naming the file that is missing or differs.
    """
    remedy = "give an older one with resume=PATH, or restore it from a copy"
    if not (folder / MARKER).is_file() or not (folder / MANIFEST).is_file():
        raise CheckpointError(str(folder), "is not a complete checkpoint", remedy)
    if (folder / MARKER).read_text(errors="replace").strip() != checksum(folder / MANIFEST):
        raise CheckpointError(str(folder / MANIFEST), "differs from what was written", remedy)
    for name, entry in read_json(folder / MANIFEST)["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(str(path), "is missing", remedy)
        if path.stat().st_size != entry["size"] or checksum(path) != entry["sha256"]:
            raise CheckpointError(str(path), "differs from what was written", remedy)


def listed(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest step first, verified or not; one each step.

    One that was being replaced when its writer was stopped stands under another name than `path_of` says.
    """
    place = run / FOLDER
    found: dict[int, Path] = {}
    for path in [*place.glob(".step-*.replaced"), *place.glob("step-*")]:
        step = _step(path)
        if step is not None:
            found[step] = path
    return [path for _, path in sorted(found.items())]


def step_of(folder: Path) -> int:
    """The step a checkpoint folder's name states.

    Raises:
        CheckpointError: the name is not `step-N`.
    """
    step = _step(folder)
    if step is None:
        raise CheckpointError(str(folder), "is not named step-N", "give a folder below checkpoints/")
    return step


def reached(run: Path) -> int:
    """The step of the newest checkpoint that is complete, not verified; 0 where there is none."""
    return max((step_of(path) for path in listed(run) if (path / MARKER).is_file()), default=0)


def newest(run: Path, tell: Callable[[str], None], wanted: Callable[[Path], bool] = lambda _: True) -> Path | None:
    """The newest checkpoint that is wanted and verifies; each newer one that does not is told of.

    Raises:
        CheckpointError: there are checkpoints, and none is good.
    """
    folders = [folder for folder in listed(run) if wanted(folder)]
    for folder in reversed(folders):
        try:
            verify(folder)
        except (CheckpointError, DataError) as error:
            tell(f"{error.where}: {error.what}; falling back to an older checkpoint")
        else:
            return folder
    if folders:
        raise CheckpointError(
            str(run / FOLDER), "holds no good checkpoint", "restore one from a copy, or start over with fresh=true"
        )
    return None


def prune(run: Path, outdated: Callable[[Collection[int]], Iterable[int]]) -> None:
    """Delete those of a run's checkpoints that a rule says, of their steps, need not stay.

    Raises:
        StorageError: one cannot be deleted.
    """
    folders = {step_of(path): path for path in listed(run)}
    for step in outdated(folders):
        try:
            with suppress(FileNotFoundError):
                disk.unlink(folders[step] / MARKER)  # from here on nobody takes it for a checkpoint
            remove_folder(folders[step])
        except OSError as error:
            raise storage_error(folders[step], error) from error


def outdated(steps: Collection[int], newest: int, keep_latest: int, keep: Collection[int]) -> list[int]:
    """Which checkpoints need not stay.

    Args:
        steps: of those there are.
        newest: the one written last. Those of later steps stand on another path or are damaged: they stay until the
            run comes there, and do not count.
        keep_latest: so many stay, up to that one.
        keep: these stay too.
    """
    before = sorted(step for step in steps if step <= newest)
    return [step for step in before[:-keep_latest] if step not in keep]


def _step(folder: Path) -> int | None:
    match = _REPLACED.fullmatch(folder.name)
    match = _NAME.fullmatch(folder.name if match is None else match[1])
    return None if match is None else int(match[1])


_NAME = re.compile(r"step-(\d+)")
_REPLACED = re.compile(r"\.(step-\d+)\.replaced")
