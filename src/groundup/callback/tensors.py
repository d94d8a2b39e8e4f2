"""Tensors in a checkpoint folder through torch.distributed.checkpoint; what they mean is not known here.

A save is made of three parts, so that all but the first two can go on beside training: what each rank writes is agreed
on (`plan`), copied (`Plan.copy`) and written (`Plan.write`, then `finish` on rank 0).
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future
from typing_extensions import override

from groundup.core import disk
from groundup.core.files import new_file, storage_error

Entries = dict[str, dict[str, Any]]
"""Files by name, each with the `sha256` and `size` that a manifest has of it."""

Buffers = dict[MetadataIndex, Tensor]
"""Host memory into which pieces are copied, by where in which tensor they stand."""

Hashes = dict[str, str]
"""SHA-256 of the bytes of each piece, in the order of its numbers, by `place`."""


@dataclass(frozen=True)
class Written:
    """What a rank has written: where torch finds it, the files, and the hash of each piece."""

    results: list[WriteResult]
    files: Entries
    hashes: Hashes


class Plan:
    """What this rank writes of a checkpoint: pieces of tensors that no other rank writes.

    Attributes:
        metadata: of all ranks' pieces, as torch wants it beside them.
    """

    def __init__(self, plan: SavePlan, planner: SavePlanner, metadata: Metadata) -> None:
        self.metadata = metadata
        self._plan = plan
        self._pieces = {item.index: cast(Tensor, planner.resolve_data(item)).detach() for item in plan.items}

    def copy(self, buffers: Buffers) -> None:
        """From here on write what stands there now, whatever becomes of it.

        Args:
            buffers: memory of an earlier copy that is needed no more, which is used again and brought up to date.
        """
        for index in buffers.keys() - self._pieces.keys():
            del buffers[index]
        for index, piece in self._pieces.items():
            room = buffers.get(index)
            if room is None or not _alike(room, piece):
                room = torch.empty_like(piece, device="cpu", pin_memory=piece.is_cuda)
                buffers[index] = room
            room.copy_(piece, non_blocking=True)
        if any(piece.is_cuda for piece in self._pieces.values()):
            torch.cuda.synchronize()
        self._pieces = dict(buffers)

    def write(self, folder: Path) -> Written:
        """Write this rank's pieces into an existing folder; their bytes are on disk afterwards.

        Raises:
            StorageError: the disk refused.
        """
        writer, files = FileSystemWriter(folder, sync_files=False, per_thread_copy_ahead=0), _Files()
        writer.fs = files
        with files.refused():
            results = writer.write_data(self._plan, cast(SavePlanner, _Given(self._pieces))).wait()
        return Written(results, files.entries, _hashes(self._pieces))


def plan(tensors: Mapping[str, Tensor], group: ProcessGroup | None, alone: bool) -> Plan:
    """Agree on who writes what; all ranks of a group call this together unless one is `alone`."""
    planner, writer = DefaultSavePlanner(), _Planned("")
    with _quiet():
        metadata = save(dict(tensors), storage_writer=writer, planner=planner, process_group=group, no_dist=alone)
    assert writer.plan is not None
    return Plan(writer.plan, planner, metadata)


def finish(folder: Path, metadata: Metadata, written: Sequence[Written]) -> Entries:
    """Write torch's index to all ranks' pieces, on rank 0; all files of the folder.

    Raises:
        StorageError: the disk refused.
    """
    writer, files = _Index(folder, sync_files=False), _Files()
    writer.fs = files
    with files.refused():
        writer.finish(metadata, [one.results for one in written])
    found = files.entries
    for one in written:
        found |= one.files
    return found


def read_into(tensors: Mapping[str, Tensor], folder: Path, alone: bool) -> None:
    """Fill tensors, in whatever layout they have, with what stands under their names."""
    with _quiet():
        load(dict(tensors), checkpoint_id=folder, no_dist=alone)


class Saved:
    """The tensors of a folder, of which any can be read.

    Torch's index is read once, however often tensors are asked for: of a large model it has an entry for each tensor's
    piece on each rank.

    Attributes:
        kinds: shape and dtype of every tensor.
    """

    def __init__(self, folder: Path) -> None:
        self._reader = _IndexOnce(folder)
        self.kinds: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
            name: (tuple(entry.size), entry.properties.dtype)
            for name, entry in self._reader.read_metadata().state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of these names, whole and on the CPU."""
        tensors = {name: torch.empty(self.kinds[name][0], dtype=self.kinds[name][1]) for name in names}
        with _quiet():
            load(dict(tensors), storage_reader=self._reader, no_dist=True)
        return tensors


class _IndexOnce(FileSystemReader):
    _index: Metadata | None = None

    @override
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._index is None:
            self._index = super().read_metadata(*args, **kwargs)
        return self._index


def read_all(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, whole and on the CPU."""
    saved = Saved(folder)
    return saved.read(saved.kinds)


def hashes(tensors: Mapping[str, Tensor]) -> Hashes:
    """The hash of what stands on this rank of each tensor."""
    planner = DefaultSavePlanner()
    planner.set_up_planner(dict(tensors), None, True)
    items = planner.create_local_plan().items
    return _hashes({item.index: cast(Tensor, planner.resolve_data(item)).detach() for item in items})


def place(index: MetadataIndex, shape: Sequence[int]) -> str:
    """Where in which tensor a piece stands, in words: name, offsets, shape."""
    return f"{index.fqn} {list(index.offset or ())} {list(shape)}"


def _hashes(pieces: Mapping[MetadataIndex, Tensor]) -> Hashes:
    found = {}
    for index, piece in pieces.items():
        numbers = piece.cpu().contiguous().reshape(-1).view(torch.uint8)
        found[place(index, piece.shape)] = hashlib.sha256(memoryview(cast(Any, numbers.numpy()))).hexdigest()
    return found


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


class _Planned(FileSystemWriter):
    """Takes note of what it would write, and writes none of it."""

    plan: SavePlan | None = None

    @override
    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    @override
    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        self.plan = plan
        done: Future[list[WriteResult]] = Future()
        done.set_result([])
        return done

    @override
    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Leave it to the one who writes."""


class _Index(FileSystemWriter):
    """Writes an index that is the same for the same tensors."""

    @override
    def storage_meta(self) -> None:
        """Nothing: a path and a number drawn at random would make equal checkpoints differ."""


class _Given:
    """Pieces as torch asks a planner for them."""

    def __init__(self, pieces: Mapping[MetadataIndex, Tensor]) -> None:
        self._pieces = pieces

    def resolve_data(self, item: WriteItem) -> Tensor:
        """The piece."""
        return self._pieces[item.index]


class _Files(FileSystem):
    """Files of a checkpoint: hashed as they are written, on disk when they are closed.

    Attributes:
        entries: of the files, by the names they have in the end.
    """

    def __init__(self) -> None:
        self.entries: Entries = {}
        self._place = Path()
        self._error: OSError | None = None

    @override
    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        path = self._place = Path(path)
        with new_file(path) as file:
            hashed = _Hashed(file)
            try:
                yield cast(io.IOBase, hashed)
            finally:
                self._error = self._error or hashed.error
        self.entries[path.name] = {"sha256": hashed.digest.hexdigest(), "size": hashed.size}

    @override
    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        disk.rename(Path(path), Path(new_path))
        self.entries[Path(new_path).name] = self.entries.pop(Path(path).name)

    @contextmanager
    def refused(self) -> Iterator[None]:
        """Tell what the system refused as it is: torch's own writer says that of its file something is wrong."""
        try:
            yield
        except Exception as error:
            cause = error if isinstance(error, OSError) else self._error
            if cause is None:
                raise
            raise storage_error(self._place, cause) from error


class _Hashed:
    """A file and the hash of what was written to it; whoever opened it closes it."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest, self.size = hashlib.sha256(), 0
        self.error: OSError | None = None
        self._file = file

    def write(self, data: Any) -> int:
        """All of a buffer."""
        try:
            many = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        self.size += many
        return many

    def tell(self) -> int:
        """Bytes so far."""
        return self.size

    def flush(self) -> None:
        """What waits to be written waits on."""

    def close(self) -> None:
        """Nothing: torch closes what is not its own."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Training alone is no mistake that torch need warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield
