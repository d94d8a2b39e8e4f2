"""What stands on a disk after a loss of power, or after a writer was stopped, as far as POSIX promises anything.

The calls by which a writer reaches the disk are recorded and played back. Of a file's bytes those survive that were
there when it was last synced; of a folder's names those that were when the folder was. What came later may be there or
not, name by name, and bytes that were not synced may be missing, cut off, or garbage.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundup.core import disk

CALLS = ("make", "create", "write", "sync", "close", "sync_names", "rename", "unlink", "remove")
"""All that `disk` offers."""


@dataclass(frozen=True)
class Call:
    """One call: its name, the paths below the root it is about, bytes."""

    name: str
    paths: tuple[str, ...]
    data: bytes = b""


@dataclass
class Recorder:
    """Records the calls on what is below a root while they are made.

    Attributes:
        root: the folder.
        calls: so far.
        said: for those who want to note when something was reported: (calls so far, what).
    """

    root: Path
    calls: list[Call] = field(default_factory=list)
    said: list[tuple[int, Any]] = field(default_factory=list)
    _open: dict[int, str] = field(default_factory=dict)

    def install(self, setattr: Callable[[Any, str, Any], None]) -> None:
        """Take the place of the calls of `disk`, by a function like pytest's `monkeypatch.setattr`."""
        for name in CALLS:
            setattr(disk, name, self._recorded(name, getattr(disk, name)))

    def say(self, what: Any) -> None:
        """Note that something was reported just now."""
        self.said.append((len(self.calls), what))

    def _recorded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*arguments: Any) -> Any:
            found = call(*arguments)
            if name in ("write", "sync", "close"):
                path = self._open.get(arguments[0])
                if path is not None:
                    data = bytes(arguments[1][:found]) if name == "write" else b""
                    self.calls.append(Call(name, (path,), data))
                if name == "close":
                    self._open.pop(arguments[0], None)
                return found
            paths = tuple(os.path.relpath(path, self.root) for path in arguments)
            if not any(path.startswith("..") for path in paths):
                self.calls.append(Call(name, paths))
                if name == "create":
                    self._open[found] = paths[0]
            return found

        return recorded


class File:
    """Bytes as they are, and as they were when last synced; None: never."""

    def __init__(self) -> None:
        self.now, self.synced = b"", None


class Folder:
    """Names as they are, as they were when last synced, and the changes since: each a set of names at once."""

    def __init__(self) -> None:
        self.now: dict[str, File | Folder] = {}
        self.synced: dict[str, File | Folder] = {}
        self.since: list[dict[str, File | Folder | None]] = []

    def change(self, **names: File | Folder | None) -> None:
        """Give names to things, or take them away (None), all at once."""
        self.since.append(names)
        _apply(self.now, names)


def _apply(names: dict[str, Any], change: dict[str, Any]) -> None:
    for name, thing in change.items():
        if thing is None:
            names.pop(name, None)
        else:
            names[name] = thing


class Disk:
    """A disk to which calls are done."""

    def __init__(self, calls: Iterable[Call] = ()) -> None:
        self.root = Folder()
        for call in calls:
            self.do(call)

    def do(self, call: Call) -> None:
        """One more call."""
        folder, name = self._find(call.paths[0])
        thing = folder.now.get(name) if name else folder
        match call.name:
            case "make":
                folder.change(**{name: Folder()})
            case "create":
                folder.change(**{name: File()})
            case "write":
                thing.now += call.data
            case "sync":
                thing.synced = thing.now
            case "sync_names":
                thing.synced, thing.since = dict(thing.now), []
            case "rename":
                place, target = self._find(call.paths[1])
                assert place is folder, "a rename between folders is not at once on every disk"
                folder.change(**{name: None, target: thing})
            case "unlink" | "remove":
                folder.change(**{name: None})

    def _find(self, path: str) -> tuple[Folder, str]:
        *above, name = [part for part in path.split("/") if part != "."] or [""]
        folder = self.root
        for part in above:
            folder = folder.now[part]
        return folder, name

    def survive(self, survivor: Survivor) -> Disk:
        """The disk after a loss of power, as one chance has it."""
        left = Disk()
        left.root = survivor.folder(self.root)
        return left

    def write_to(self, place: Path) -> None:
        """The files and folders, in an empty folder that is there."""
        _write(self.root, place)


def _write(folder: Folder, place: Path) -> None:
    for name, thing in folder.now.items():
        if isinstance(thing, Folder):
            (place / name).mkdir()
            _write(thing, place / name)
        else:
            (place / name).write_bytes(thing.now)


class Survivor:
    """One chance of what a loss of power leaves of what was not synced.

    Args:
        names: which of the changes of names are kept: "none", "all", or "some" by lot.
        bytes_: what becomes of bytes: "gone", "cut" somewhere, or "garbage".
        seed: of the lots.
    """

    def __init__(self, names: str, bytes_: str, seed: int = 0) -> None:
        self.names, self.bytes, self.lot = names, bytes_, random.Random(seed)

    def folder(self, folder: Folder) -> Folder:
        """What is left of a folder."""
        names = dict(folder.synced)
        for change in folder.since:
            if self.names == "all" or (self.names == "some" and self.lot.random() < 0.5):
                _apply(names, change)
        left = Folder()
        for name, thing in names.items():
            left.now[name] = self.folder(thing) if isinstance(thing, Folder) else self.file(thing)
        return left

    def file(self, file: File) -> File:
        """What is left of a file."""
        left, synced = File(), file.synced or b""
        tail = file.now[len(synced) :]
        if tail and self.bytes == "cut":
            tail = tail[: self.lot.randrange(len(tail))]
        elif tail and self.bytes == "garbage":
            tail = self.lot.randbytes(len(tail))
        left.now = synced + (b"" if self.bytes == "gone" else tail)
        return left


CHANCES: Sequence[tuple[str, str]] = [
    (names, bytes_) for names in ("none", "all", "some") for bytes_ in ("gone", "cut", "garbage")
]


def stops(calls: Sequence[Call]) -> Iterator[tuple[int, list[Call]]]:
    """The calls done when a writer is stopped after each, and in the midst of each write; with how many are whole."""
    for number in range(len(calls) + 1):
        yield number, list(calls[:number])
        if number < len(calls) and len(calls[number].data) > 1:
            call = calls[number]
            half = Call(call.name, call.paths, call.data[: len(call.data) // 2])
            yield number, [*calls[:number], half]


def tree(place: Path) -> dict[str, bytes | None]:
    """All files and folders below a place by their paths; None stands for a folder."""
    return {str(path.relative_to(place)): path.read_bytes() if path.is_file() else None for path in place.rglob("*")}
