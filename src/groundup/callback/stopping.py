"""A job that is asked to stop, by SIGTERM or a notice of pre-emption: all its ranks know it after the same step.

What they do then is not decided here.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, distributed

from groundup.core.errors import UserError

_Handler = Callable[[int, FrameType | None], Any]


class StoppedError(UserError):
    """A run that was asked to stop, and did when it had saved; a verb exits as one that the signal ended."""

    by_all = True

    def __init__(self, where: str, what: str, remedy: str, number: int = signal.SIGTERM) -> None:
        super().__init__(where, what, remedy)
        self.exit_code = 128 + number


class Requests:
    """Signals that ask a job to stop, from `listen` to `close`.

    SIGTERM is heard where nobody else wants it. SIGUSR2 is heard where somebody does: submitit, which has a job that
    will be preempted queued again. What they do on it is done once the run has saved. A signal that comes twice does
    what it did before.
    """

    def __init__(self) -> None:
        self.heard: int | None = None
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Begin; outside a program's main thread there is nothing to be heard."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._note)
        if callable(signal.getsignal(signal.SIGUSR2)):
            self._before[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, self._note)

    def close(self) -> None:
        """Put back what was there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def again(self) -> None:
        """Let a signal that came too late to be heeded have the effect it had before `listen`."""
        if self.heard is not None:
            os.kill(os.getpid(), self.heard)

    def pass_on(self) -> None:
        """Let who wanted the signal before have it; it may end the process."""
        handler = None if self.heard is None else self._before.get(self.heard)
        if callable(handler):
            handler(self.heard, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.heard is not None:
            before = self._before[number]
            self.close()
            if callable(before):
                before(number, None)
            else:
                os.kill(os.getpid(), number)
        self.heard = number


class Agreement:
    """Words that all ranks must hear after the same step.

    What one says after a step, all know after the next one: the exchange has a step's time, so that none waits for it.
    One that is alone knows at once.

    Args:
        words: how many.
        alone: whether this is the only rank.
    """

    def __init__(self, words: int, *, alone: bool) -> None:
        self._said = torch.zeros(words, dtype=torch.int32)
        self._alone = alone
        self._work: Any = None

    def after_step(self, *said: bool) -> list[bool]:
        """Say words, and hear what the ranks said after the step before."""
        if self._alone:
            return list(said)
        heard = self.finish()
        self._said = torch.tensor(said, dtype=torch.int32)
        self._work = distributed.all_reduce(self._said, distributed.ReduceOp.MAX, async_op=True)
        return heard

    def finish(self) -> list[bool]:
        """What was said last; all ranks call this."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        heard: Tensor = self._said
        return [bool(word) for word in heard.tolist()]
