"""A process's signs of life, in memory that it shares with its watchdog; what becomes of them is not known here.

A beat says what begins now and how long that may take. It costs a microsecond and no call of the system, so each step
has two. Stacks are dumped by faulthandler's own signal handler, which needs neither the interpreter nor its lock: a
process that hangs inside a library tells where all the same.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from groundup.core import ranks

WATCHDOG = "groundup.launcher.watchdog"
DUMP = signal.SIGQUIT
"""What makes a watched process write its stacks, as it does with other virtual machines."""

_BEAT = struct.Struct("=d d q 40s")


@dataclass(frozen=True)
class Beat:
    """What a process does.

    Attributes:
        since: when it began, on the clock of `time.monotonic`, which all processes of a machine share.
        seconds: how long it may take.
        step: steps done.
        what: in words.
    """

    since: float
    seconds: float
    step: int
    what: str

    def write(self, place: mmap.mmap) -> None:
        """Put it where the watchdog looks."""
        _BEAT.pack_into(place, 0, self.since, self.seconds, self.step, self.what.encode()[:40])

    @staticmethod
    def read(place: mmap.mmap) -> Beat:
        """The last one."""
        since, seconds, step, what = _BEAT.unpack_from(place)
        return Beat(since, seconds, step, what.rstrip(b"\0").decode("utf-8", "replace"))


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds.

    Attributes:
        step: from the beginning of a step to its end.
        phase: the start, a first step with what is compiled in it, and whatever lies between two steps.
    """

    step: float
    phase: float


@dataclass(frozen=True)
class Orders:
    """What a watchdog is told.

    Attributes:
        process: the number of the one it watches.
        rank, world, node: which of a job's it is, and where.
        logs: the run's folder of logs, which the watchdogs of all machines see.
        phase: the longer limit.
        look: seconds between two looks.
        beats, stacks: descriptors of the files it shares with its process.
        job: the job of Slurm to be queued again when it hangs, None for no such job.
    """

    process: int
    rank: int
    world: int
    node: str
    logs: str
    phase: float
    look: float
    beats: int
    stacks: int
    job: str | None


class _Heart:
    """The end of the line on the side of the process that is watched."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.process = os.getpid()
        self.files: tuple[BinaryIO, BinaryIO] = (tempfile.TemporaryFile(), tempfile.TemporaryFile())  # noqa: SIM115
        beats, stacks = self.files
        beats.truncate(_BEAT.size)
        self.memory = mmap.mmap(beats.fileno(), _BEAT.size)
        faulthandler.register(DUMP, file=stacks, all_threads=True)
        self.beat("the start", 0, limits.phase)

    def beat(self, what: str, done: int, seconds: float) -> None:
        Beat(time.monotonic(), seconds, done, what).write(self.memory)

    def watch(self, logs: Path, job: str | None) -> None:
        beats, stacks = (file.fileno() for file in self.files)
        look = min(10.0, min(self.limits.step, self.limits.phase) / 20)
        place = (self.process, ranks.rank(), ranks.world(), ranks.node())
        orders = Orders(*place, str(logs.resolve()), self.limits.phase, look, beats, stacks, job)
        line = [sys.executable, "-m", WATCHDOG, json.dumps(asdict(orders))]
        self.watchdog = subprocess.Popen(line, stdin=subprocess.DEVNULL, pass_fds=(beats, stacks))

    def end(self) -> None:
        self.watchdog.kill()
        self.watchdog.wait()
        faulthandler.unregister(DUMP)
        self.memory.close()
        for file in self.files:
            file.close()


_heart: _Heart | None = None


def begin(limits: Limits, logs: Path, job: str | None = None) -> None:
    """Have this process watched from now on, by a process of its own that ends with it or with `end`.

    Args:
        limits: how long things may take.
        logs: the run's folder of logs.
        job: the job of Slurm to be queued again when it hangs.
    """
    global _heart
    end()
    _heart = _Heart(limits)
    _heart.watch(logs, job)


@atexit.register
def end() -> None:
    """Nobody watches any more."""
    global _heart
    heart, _heart = _heart, None
    if heart is not None and heart.process == os.getpid():  # and not one it forked
        heart.end()


def step(number: int, *, first: bool = False) -> None:
    """A step begins; `first` if it is the first of this process, in which much is compiled."""
    if _heart is not None:
        _heart.beat(f"step {number}", number - 1, _heart.limits.phase if first else _heart.limits.step)


def phase(what: str, done: int) -> None:
    """Something begins that may take longer than a step, after so many steps."""
    if _heart is not None:
        _heart.beat(what, done, _heart.limits.phase)
