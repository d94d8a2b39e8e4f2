"""Checkpoint directories: `step-N/`, whole or absent, verified by hash; what their files mean is not known here.

A checkpoint is written under a partial name, its files hashed into `manifest.json`, a `COMPLETE` marker
written last, and only then given its name. A reader takes the newest one whose files match their hashes.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from groundup.core.errors import CheckpointError
from groundup.core.files import atomic_json, atomic_write, checksum, make_folder, read_json, storage_error, sync_folder

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
MARKER = "COMPLETE"


def path_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step stands in a run folder."""
    return run / FOLDER / f"step-{step}"


def begin(run: Path, step: int) -> Path:
    """Make the empty partial folder into which every rank writes; rank 0 calls this, the others use the path.

    Raises:
        StorageError: it cannot be made.
    """
    partial = partial_of(run, step)
    try:
        if partial.exists():
            shutil.rmtree(partial)
    except OSError as error:
        raise storage_error(partial, error) from error
    return make_folder(partial)


def partial_of(run: Path, step: int) -> Path:
    """The name under which a checkpoint is written."""
    return run / FOLDER / f".step-{step}.partial"


def commit(run: Path, step: int) -> Path:
    """Turn the partial folder into the checkpoint of its step, durably; one at that step before is replaced.

    Raises:
        StorageError: the disk refused; checkpoints that were complete stay so.
    """
    partial, final = partial_of(run, step), path_of(run, step)
    try:
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        for path in files:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        listed = {
            path.relative_to(partial).as_posix(): {"sha256": checksum(path), "size": path.stat().st_size}
            for path in files
        }
        atomic_json(partial / MANIFEST, {"step": step, "files": listed})
        atomic_write(partial / MARKER, checksum(partial / MANIFEST) + "\n")
        replaced = final.with_name(f".{final.name}.replaced")
        if final.exists():
            final.replace(replaced)
        partial.replace(final)
        sync_folder(final.parent)
        if replaced.exists():
            shutil.rmtree(replaced)
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
    if (folder / MARKER).read_text().strip() != checksum(folder / MANIFEST):
        raise CheckpointError(str(folder / MANIFEST), "differs from what was written", remedy)
    for name, entry in read_json(folder / MANIFEST)["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(str(path), "is missing", remedy)
        if path.stat().st_size != entry["size"] or checksum(path) != entry["sha256"]:
            raise CheckpointError(str(path), "differs from what was written", remedy)


def listed(run: Path) -> list[Path]:
    """The checkpoints that bear a final name, oldest step first, verified or not."""
    found = [(int(match[1]), path) for path in (run / FOLDER).glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def step_of(folder: Path) -> int:
    """The step a checkpoint folder's name states.

    Raises:
        CheckpointError: the name is not `step-N`.
    """
    match = _NAME.fullmatch(folder.name)
    if match is None:
        raise CheckpointError(str(folder), "is not named step-N", "give a folder below checkpoints/")
    return int(match[1])


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
        except CheckpointError as error:
            tell(f"{error.where}: {error.what}; falling back to an older checkpoint")
        else:
            return folder
    if folders:
        raise CheckpointError(
            str(run / FOLDER), "holds no good checkpoint", "restore one from a copy, or start over with fresh=true"
        )
    return None


def prune(run: Path, keep_latest: int, keep: set[int]) -> None:
    """Delete all but the newest `keep_latest` checkpoints and those of the steps in `keep`.

    Raises:
        StorageError: one cannot be deleted.
    """
    folders = listed(run)
    for folder in folders[: max(0, len(folders) - keep_latest)]:
        if step_of(folder) in keep:
            continue
        try:
            (folder / MARKER).unlink(missing_ok=True)  # from here on nobody takes it for a checkpoint
            shutil.rmtree(folder)
        except OSError as error:
            raise storage_error(folder, error) from error


_NAME = re.compile(r"step-(\d+)")
