"""A process of a job: started with its place, ended with all it started itself, and never left behind.

On Linux the kernel kills it when the launcher dies, however that dies (`prctl(2)`, PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


class Process:
    """One rank. It leads a session, so that a key pressed at the terminal reaches it through the launcher alone.

    To be started from the main thread: the kernel counts the death of the thread that started it.

    Args:
        rank: its number.
        command: what it runs.
        variables: what it finds in its environment beside this process's own.
        log: where what it says goes, standard output and error in their order.
        keep: files it inherits, by descriptor.
    """

    def __init__(
        self, rank: int, command: Sequence[str], variables: Mapping[str, str], log: Path, keep: Sequence[int] = ()
    ) -> None:
        self.rank = rank
        self.log = log
        with log.open("ab", buffering=0) as output:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **variables},
                start_new_session=True,
                pass_fds=tuple(keep),
                preexec_fn=_die_with(os.getpid()),
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    def wait(self) -> int:
        """Its exit code once it has ended; of one that a signal ended, the signal's number below zero."""
        return self._process.wait()

    def ended(self, seconds: float) -> int | None:
        """As `wait`, but None if it has not ended after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def send(self, number: int) -> None:
        """Pass a signal on to the process; what it started itself is its own business."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it and whatever it started, now."""
        with suppress(ProcessLookupError):  # a group outlives its leader while it has members
            os.killpg(self._process.pid, signal.SIGKILL)

    def last_lines(self, count: int) -> list[str]:
        """The end of what it said."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 400 * count))
            lines = file.read().decode("utf-8", "replace").splitlines()
        return [line for line in lines if line.strip()][-count:] if count else []


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it dies, however that dies; off Linux, nothing."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _die_with(parent: int) -> Callable[[], None] | None:
    """What a child does before it runs its program, lest it outlive its parent."""
    if _LIBC is None:
        return None
    prctl, kill, getppid, leave = _LIBC.prctl, int(signal.SIGKILL), os.getppid, os._exit

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, kill, 0, 0, 0)
        if getppid() != parent:  # it died before it could be asked for
            leave(1)

    return ask
