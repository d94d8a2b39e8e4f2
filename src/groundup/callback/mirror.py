"""Copies of a run's checkpoints behind any URL that fsspec knows, for when the machine with the run folder is lost.

A copy is complete when its marker is there, which goes up last and is taken away first. Beside the checkpoints stand
the run's records, which a run that goes on elsewhere goes on with.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]  # it ships no types
from filelock import FileLock

from groundup.core import checkpoint
from groundup.core.errors import CheckpointError, ConfigError, DataError, StorageError
from groundup.core.files import atomic_write, make_folder, new_file, read_json, remove_folder, storage_error

RECORDS = (".csv", ".jsonl")
"""Files of a run folder that are copied with each checkpoint, by how their names end."""

_BLOCK = 1 << 23


class Mirror:
    """The place of one run behind a URL.

    Args:
        url: of the folder of all runs there.
        run: the run folder, whose last two names its place has too.

    Raises:
        ConfigError: fsspec does not know the URL, or what it needs is not installed.
    """

    def __init__(self, url: str, run: Path) -> None:
        self.run = run
        try:
            self._system, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            what = f"cannot be opened ({error})"
            raise ConfigError(
                f"callback.checkpoint.mirror={url}", what, "install what it names, or give a path"
            ) from None
        self.where = "/".join((url.rstrip("/"), *run.absolute().parts[-2:]))
        self._root = posixpath.join(root, *run.absolute().parts[-2:])

    def put(self, step: int, outdated: Callable[[Collection[int]], list[int]]) -> None:
        """Copy a checkpoint and the records, then delete what need not stay.

        Args:
            step: of the checkpoint, complete in the run folder.
            outdated: which of the checkpoints of some steps that is. Those of later steps go too: they stand on a path
                that the run has left, or are made again.

        Raises:
            StorageError: it cannot be done now; copies that were complete before stay so.
        """
        folder = checkpoint.path_of(self.run, step)
        try:
            for path in sorted(self.run.iterdir()):
                if path.suffix in RECORDS:
                    self._system.pipe_file(self._path(path.name), path.read_bytes())
            self._delete(step)
            self._system.makedirs(self._folder(step), exist_ok=True)
            for path in sorted(folder.iterdir()):
                if path.name != checkpoint.MARKER:
                    self._system.put_file(str(path), self._folder(step, path.name))
            marker = (folder / checkpoint.MARKER).read_bytes()
            self._system.pipe_file(self._folder(step, checkpoint.MARKER), marker)
            steps = self.steps()
            for other in [*outdated(steps), *(other for other in steps if other > step)]:
                self._delete(other)
        except Exception as error:  # each protocol has its own
            raise StorageError(
                self.where, f"cannot be written ({error})", "see its permissions and the network"
            ) from error

    def steps(self) -> list[int]:
        """Of the checkpoints that are complete, oldest first."""
        place = self._path(checkpoint.FOLDER)
        if not self._system.isdir(place):
            return []
        folders = [Path(found) for found in self._system.ls(place, detail=False, refresh=True)]
        named = [checkpoint.step_of(folder) for folder in folders if folder.name.startswith("step-")]
        return sorted(step for step in named if self._system.exists(self._folder(step, checkpoint.MARKER)))

    def fetch_records(self) -> None:
        """Bring the records to a run folder that has none.

        Raises:
            StorageError: the folder cannot be written.
            CheckpointError: they cannot be read.
        """
        with self._alone():
            try:
                place = self._root if self._system.isdir(self._root) else None
                names = [] if place is None else [Path(found).name for found in self._system.ls(place, detail=False)]
                for name in names:
                    if name.endswith(RECORDS) and not (self.run / name).exists():
                        atomic_write(self.run / name, self._system.cat_file(self._path(name)))
            except StorageError:
                raise
            except Exception as error:  # each protocol has its own
                raise self._unreadable(error) from error

    def fetch(self, tell: Callable[[str], None], wanted: Callable[[Path], bool]) -> None:
        """Bring the newest good checkpoint that is wanted to a run folder that has none; others are told of.

        Raises:
            StorageError: the folder cannot be written.
            CheckpointError: they cannot be read.
        """
        with self._alone():
            if checkpoint.listed(self.run):  # another rank was here
                return
            try:
                for step in reversed(self.steps()):
                    try:
                        folder = self._fetched(step)
                    except (CheckpointError, DataError) as error:
                        tell(f"{error.where}: {error.what}; falling back to an older checkpoint")
                        continue
                    if wanted(folder):
                        tell(f"step {step} is brought back from {self.where}")
                        return
                    remove_folder(folder)
            except (StorageError, CheckpointError):
                raise
            except Exception as error:  # each protocol has its own
                raise self._unreadable(error) from error

    def _fetched(self, step: int) -> Path:
        """A copy, checked and complete in the run folder."""
        partial = checkpoint.begin(self.run, step)
        (partial / checkpoint.MANIFEST).write_bytes(self._system.cat_file(self._folder(step, checkpoint.MANIFEST)))
        entries = read_json(partial / checkpoint.MANIFEST)["files"]
        for name, entry in entries.items():
            digest = hashlib.sha256()
            try:
                with new_file(partial / name) as copy, self._system.open(self._folder(step, name), "rb") as source:
                    while block := source.read(_BLOCK):
                        copy.write(block)
                        digest.update(block)
            except FileNotFoundError:
                raise CheckpointError(f"{self.where}: step {step}: {name}", "is missing", "") from None
            except OSError as error:
                raise storage_error(partial / name, error) from error
            if digest.hexdigest() != entry["sha256"]:
                raise CheckpointError(f"{self.where}: step {step}: {name}", "differs from what was written", "")
        return checkpoint.commit(self.run, step, entries)

    def _delete(self, step: int) -> None:
        if self._system.exists(self._folder(step, checkpoint.MARKER)):
            self._system.rm_file(self._folder(step, checkpoint.MARKER))
        if self._system.exists(self._folder(step)):
            self._system.rm(self._folder(step), recursive=True)

    def _alone(self) -> FileLock:
        """One rank at a time."""
        return FileLock(make_folder(self.run) / ".mirror.lock")

    def _unreadable(self, error: Exception) -> CheckpointError:
        remedy = "see its permissions and the network, or set callback.checkpoint.mirror=null"
        return CheckpointError(self.where, f"cannot be read ({error})", remedy)

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name)

    def _folder(self, step: int, name: str = "") -> str:
        return posixpath.join(self._root, checkpoint.FOLDER, f"step-{step}", *([name] if name else []))


def mirror_of(callbacks: Mapping[str, Any], run: Path) -> Mirror | None:
    """The place where the callbacks of a run have its checkpoints copied to, by their configs; None: nowhere.

    Raises:
        ConfigError: as `Mirror`.
    """
    url = next((config.mirror for config in callbacks.values() if getattr(config, "mirror", None)), None)
    return None if url is None else Mirror(url, run)
