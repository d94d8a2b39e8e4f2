"""Writes a checkpoint beside training, on one rank or on all together; what it means and when is not decided here.

One is written at a time, from one copy of the state in memory that is used again and again: so memory is bounded, and
who wants to save while the last checkpoint is still being written waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from groundup.callback import tensors as files
from groundup.core import checkpoint
from groundup.core.errors import UserError
from groundup.core.files import atomic_json, entry_of, remove_folder, storage_error

T = TypeVar("T")
STATE = "state.json"
HASHES = "hashes.json"
PATIENCE = timedelta(hours=2)
"""So long ranks wait for the slowest one's disk; one that is dead is noticed at once."""


@dataclass(frozen=True)
class Request:
    """A checkpoint to write.

    Attributes:
        run: folder of the run.
        step: the clock's.
        tensors: all that this rank has to save.
        state: what stands in `state.json`.
        after: what rank 0 does once the checkpoint is complete.
    """

    run: Path
    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    after: Callable[[], None]


class Writer:
    """One rank's part in writing checkpoints.

    All ranks call `save` and `wait` together. What goes on beside training exchanges a few words over a group of its
    own, so it is never in the way of the collectives of training.

    Args:
        asynchronous: whether training goes on meanwhile.
        alone: whether this is the only rank.
    """

    def __init__(self, *, asynchronous: bool, alone: bool) -> None:
        self._asynchronous = asynchronous
        self._group = None if alone else distributed.new_group(timeout=PATIENCE, backend="gloo")
        self._leads = alone or distributed.get_rank() == 0
        self._buffers: files.Buffers = {}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def failed(self) -> bool:
        """Whether the last checkpoint could not be written; `wait` says why."""
        return self._error is not None

    @property
    def writing(self) -> bool:
        """Whether a checkpoint is being written beside training just now."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def memory(self) -> int:
        """Bytes of the copy."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def save(self, request: Request) -> None:
        """Write a checkpoint; when this returns it is copied, or written where that is not asynchronous.

        Raises:
            StorageError: the disk refused this one, or the one before. All ranks raise it.
        """
        self.wait()
        plan = files.plan(request.tensors, self._group, alone=self._group is None)
        if not self._asynchronous:
            self._write(plan, request)
            return
        plan.copy(self._buffers)
        request = replace(request, tensors={})  # what a strategy put together for this need not stay
        self._thread = threading.Thread(target=self._try, args=(plan, request), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            StorageError: it could not be. All ranks raise it.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Let go of the copy and the group; nothing is being written."""
        self._buffers.clear()
        if self._group is not None:
            distributed.destroy_process_group(self._group)
            self._group = None

    def _try(self, plan: files.Plan, request: Request) -> None:
        try:
            self._write(plan, request)
        except Exception as error:  # it is raised where it is waited for
            self._error = error

    def _write(self, plan: files.Plan, request: Request) -> None:
        partial = checkpoint.partial_of(request.run, request.step)
        self._agreed([_outcome(lambda: checkpoint.begin(request.run, request.step))[1] if self._leads else None])
        written, error = _outcome(lambda: plan.write(partial))
        told = self._gathered((written, error))
        failures: list[Exception | None] = [theirs for _, theirs in told if theirs is not None]
        if self._leads and not failures:
            parts = [one for one, _ in told if one is not None]
            failures = [_outcome(lambda: self._complete(plan, request, parts))[1]]
        if self._leads and any(failures):
            with suppress(OSError):
                remove_folder(partial)  # the disk may be full of it
        self._agreed(failures)

    def _complete(self, plan: files.Plan, request: Request, written: Sequence[files.Written]) -> None:
        partial = checkpoint.partial_of(request.run, request.step)
        entries = files.finish(partial, plan.metadata, written)
        hashes = {place: value for one in written for place, value in one.hashes.items()}
        for name, value in ((STATE, dict(request.state)), (HASHES, dict(sorted(hashes.items())))):
            atomic_json(partial / name, value)
            entries[name] = entry_of(partial / name)
        checkpoint.commit(request.run, request.step, entries)
        request.after()

    def _gathered(self, own: T) -> list[T]:
        """What all ranks say, on rank 0; this rank's own on the others."""
        if self._group is None:
            return [own]
        told: list[Any] | None = [None] * distributed.get_world_size() if self._leads else None
        distributed.gather_object(own, told, dst=0, group=self._group)
        return cast(list[T], told) if told is not None else [own]

    def _agreed(self, failures: Sequence[Exception | None]) -> None:
        """Raise on all ranks what rank 0 found, if it found something.

        Raises:
            StorageError: it did.
        """
        failure = next((one for one in failures if one is not None), None)
        if self._group is not None:
            shared: list[Any] = [failure]
            distributed.broadcast_object_list(shared, src=0, group=self._group, device=torch.device("cpu"))
            failure = shared[0]
        if failure is not None:
            raise failure


def _outcome(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What work gives, or why it failed: no rank may fail here without telling the others, who would wait for it."""
    try:
        return work(), None
    except OSError as error:
        told: Exception = storage_error(Path(error.filename or "checkpoint"), error)
    except UserError as error:
        told = error
    except Exception as error:  # a mistake of ours, which need not go through the group as it is
        told = RuntimeError(f"a checkpoint could not be written: {error!r}")
    if isinstance(told, UserError):
        told.by_all = True
    return None, told
