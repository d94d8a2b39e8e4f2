"""Starts a job again when it fails, later each time, until it fails too often; what the job does is not known here.

Failures count anew when the job has got further than before, so that a long run outlives many of them and one that
fails at the same place does not go on for ever.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass

from groundup.core.errors import RankError
from groundup.launcher import record
from groundup.launcher.job import Job
from groundup.launcher.local import Asked, Ended, Local, StoppedError, signals
from groundup.launcher.watchdog import verdict

MOST_SECONDS = 300.0
"""Beyond this the wait before a restart does not grow."""

_USER = 2
"""What a process exits with that a user has to put right: another start would not help."""


@dataclass(frozen=True)
class Budget:
    """How often and after how long a job is started again.

    Attributes:
        restarts: after so many failures without progress in between it is given up.
        backoff_seconds: before the first restart; twice as long before each further one without progress.
    """

    restarts: int
    backoff_seconds: float

    def wait(self, failures: int) -> float:
        """Seconds before the restart that follows so many failures without progress."""
        return min(MOST_SECONDS, self.backoff_seconds * 2.0 ** min(failures - 1, 60))


class Supervisor:
    """A launcher that starts a job again.

    Args:
        local: what starts it.
        budget: how often.
        fit: sees before each start that this machine may be used; it raises what forbids it.
    """

    def __init__(self, local: Local, budget: Budget, fit: Callable[[Job], None] = lambda _: None) -> None:
        self.local = local
        self.budget = budget
        self.fit = fit

    def launch(self, job: Job) -> None:
        """Run a job to its end; each start, and what came of it, is a line of `launches.jsonl` among its logs.

        A job is not started again if it was stopped by a signal to this program, or if a process of it says by exit
        code 2 that a user must act, as for a run that decided to stop.

        Raises:
            RankError: it failed for the last time.
            UserError: this machine may not be used.
            StorageError: the logs cannot be written.
        """
        failures, start, before = 0, 0, job.reached()
        while True:
            start += 1
            self.fit(job)
            record.note(job.logs, "started" if start == 1 else "restarted", start=start, step=job.reached())
            known = verdict(job.logs)
            try:
                self.local.launch(job)
                record.note(job.logs, "ended", start=start, step=job.reached())
                return
            except RankError as error:
                reached, now = job.reached(), verdict(job.logs)
                why = now["why"] if now != known else f"{error.where}: {error.what}"
                failures = 1 if reached > before else failures + 1
                before = max(before, reached)
                event = "stopped" if isinstance(error, StoppedError) else "failed"
                record.note(job.logs, event, start=start, step=reached, why=why, exit_code=error.exit_code)
                if event == "stopped" or error.exit_code == _USER or not self.budget.restarts:
                    raise
                if failures > self.budget.restarts:
                    record.note(job.logs, "given_up", failures=failures, step=reached)
                    what = f"given up, since it failed {failures} times without getting beyond step {reached}"
                    raise RankError("launcher=local", f"{what}; at last {why}", error.remedy, error.exit_code) from None
            self._wait(why, failures, reached)

    def _wait(self, why: str, failures: int, reached: int) -> None:
        seconds = self.budget.wait(failures)
        left = self.budget.restarts - failures
        print(
            f"{why}; starting again from step {reached} in {seconds:g} s"
            f" ({left} more restart{'' if left == 1 else 's'} without progress)",
            flush=True,
        )
        events: queue.SimpleQueue[Ended | Asked] = queue.SimpleQueue()
        with signals(events):
            try:
                event = events.get(timeout=seconds)
            except queue.Empty:
                return
        assert isinstance(event, Asked)
        raise StoppedError.by(event.signal, "while it waited to start again")
