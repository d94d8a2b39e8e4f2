"""A process per device of this machine: started together, ended together, the first that fails named."""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from groundup.core import ranks
from groundup.core.errors import RankError
from groundup.core.files import make_folder, storage_error, unused
from groundup.launcher.job import Job
from groundup.launcher.processes import Process

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_SECONDS = 0.1
_ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Ended:
    """A process has ended with this exit code."""

    rank: int
    code: int


@dataclass(frozen=True)
class Asked:
    """This program was sent a signal."""

    signal: int


class StoppedError(RankError):
    """A job that was ended because this program was sent a signal."""

    @classmethod
    def by(cls, number: int, where: str) -> StoppedError:
        """The error that tells of a signal."""
        return cls(
            signal.Signals(number).name, "ended all processes", f"the same command goes on; {where}", 128 + number
        )


class Local:
    """Starts the processes, shows what rank 0 says, and sees to it that none outlives another.

    Args:
        devices: how many processes.
        grace_seconds: from asking to killing, where one has failed.
        last_lines: of a failed process's log.
        stop_seconds: from asking to killing, where the job is asked to stop; None: the same.
    """

    def __init__(self, devices: int, grace_seconds: float, last_lines: int, stop_seconds: float | None = None) -> None:
        self.devices = devices
        self.grace_seconds = grace_seconds
        self.stop_seconds = grace_seconds if stop_seconds is None else stop_seconds
        self.last_lines = last_lines

    def launch(self, job: Job) -> None:
        """Run a command once per device and wait for all of them.

        Each is told its place as torchrun would tell it. Logs are `<n>/rank-N.log` below the job's folder of logs, in
        the n-th launch.

        Raises:
            RankError: one failed; the others were ended.
            StoppedError: this program was told to stop.
            StorageError: the logs cannot be written.
        """
        logs = _numbered(job.logs)
        print(f"starting {self.devices} processes; what each says: {logs}/rank-N.log", flush=True)
        events: queue.SimpleQueue[Ended | Asked] = queue.SimpleQueue()
        with _listening() as listener, signals(events):
            processes: list[Process] = []
            try:
                for rank in range(self.devices):
                    processes.append(self._start(job, rank, logs, listener))  # noqa: PERF401  # known if the next fails
                for process in processes:
                    threading.Thread(target=_watch, args=(process, events), daemon=True).start()
                listener.close()  # rank 0 alone holds it, so that its end is seen by those who wait at it
                with Shown(processes[0].log) as shown:
                    first = self._wait(processes, events, shown)
            finally:
                for process in processes:
                    process.kill()
        if isinstance(first, Asked):
            raise StoppedError.by(first.signal, f"logs: {logs}")
        if first is not None:
            raise self._failure(processes[first.rank], first.code)

    def _start(self, job: Job, rank: int, logs: Path, listener: socket.socket) -> Process:
        place = (rank, self.devices, rank, self.devices, _ADDRESS, listener.getsockname()[1])
        variables = {name: str(value) for name, value in zip(ranks.NAMES, place, strict=True)}
        variables |= {ranks.LAUNCHED: "local", "PYTHONUNBUFFERED": "1"}
        if "OMP_NUM_THREADS" not in os.environ:
            variables["OMP_NUM_THREADS"] = str(max(1, _cores() // self.devices))
        keep = [listener.fileno()] if rank == 0 else []
        if keep:
            variables[ranks.LISTENING] = str(keep[0])
        return Process(rank, job.command, variables, logs / f"rank-{rank}.log", keep)

    def _wait(
        self, processes: Sequence[Process], events: queue.SimpleQueue[Ended | Asked], shown: Shown
    ) -> Ended | Asked | None:
        """What ended the job first: a failure or a signal; None if all ended well."""
        running, first, deadline = len(processes), None, float("inf")
        while running:
            shown.go_on()
            event = _next(events)
            if isinstance(event, Ended):
                running -= 1
            if event is None and time.monotonic() < deadline:
                continue
            if (isinstance(event, Asked) and first is not None) or time.monotonic() >= deadline:
                for process in processes:
                    process.kill()  # asked again, or not gone in time
                deadline = float("inf")
            elif first is None and event is not None and not (isinstance(event, Ended) and event.code == 0):
                first, asked = event, isinstance(event, Asked)
                deadline = time.monotonic() + (self.stop_seconds if asked else self.grace_seconds)
                for process in processes:
                    if process.running:
                        process.send(event.signal if isinstance(event, Asked) else signal.SIGTERM)
        shown.go_on()
        return first

    def _failure(self, process: Process, code: int) -> RankError:
        if process.rank:  # what rank 0 said stands on the terminal already
            for line in process.last_lines(self.last_lines):
                print(f"rank {process.rank}: {line}", file=sys.stderr)
        return RankError(
            f"rank {process.rank} on {socket.gethostname()}",
            f"{_how(code)}, and the other processes were ended",
            f"all it said: {process.log}",
            code if code > 0 else 128 - code,
        )


class Shown:
    """Copies a growing file to the terminal."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def go_on(self) -> None:
        """Show what has come since the last time."""
        while piece := self._file.read(1 << 16):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _how(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}" + (" (the system does so when memory runs out)" if name == "SIGKILL" else "")


def _watch(process: Process, events: queue.SimpleQueue[Ended | Asked]) -> None:
    events.put(Ended(process.rank, process.wait()))


def _next(events: queue.SimpleQueue[Ended | Asked]) -> Ended | Asked | None:
    try:
        return events.get(timeout=_LOOK_SECONDS)
    except queue.Empty:
        return None


def _numbered(folder: Path) -> Path:
    """A new folder for the logs of this launch."""
    make_folder(folder)
    while True:
        place = unused(lambda number: folder / str(number))
        try:
            place.mkdir()
        except FileExistsError:  # another launch took it
            continue
        except OSError as error:
            raise storage_error(place, error) from error
        return place


@contextmanager
def _listening() -> Iterator[socket.socket]:
    """A socket that listens at a free port: handed to rank 0 as it is, so that nobody can take the port meanwhile."""
    with socket.socket() as listener:
        listener.bind((_ADDRESS, 0))
        listener.listen(socket.SOMAXCONN)
        yield listener


@contextmanager
def signals(events: queue.SimpleQueue[Ended | Asked]) -> Iterator[None]:
    """In this block signals become events."""

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        events.put(Asked(number))

    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup stays nohup
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
