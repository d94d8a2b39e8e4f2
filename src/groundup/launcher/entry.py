"""What a process of a job does before it trains: it has itself watched, and its machine looked at; it trains nothing.

What starts the processes of a machine itself (`launcher=local`) looks at the machine before it does; elsewhere, under
torchrun and srun, the first process of each machine looks.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from groundup.core import ranks
from groundup.launcher import health, heartbeat, record
from groundup.launcher.config import Watched
from groundup.launcher.cordon import NodeError, refuse
from groundup.launcher.requeue import job, requeue
from groundup.launcher.watchdog import condemn

_START_SECONDS = 10.0
"""For so long a machine that leaves waits, since the watchdogs of the others may just be starting."""


def enter(options: Watched, folder: Path, cordon: Path) -> None:
    """Begin as a process of a job, or alone.

    Args:
        options: of the launcher.
        folder: of the run.
        cordon: the folder of the list of nodes that no job is to use.

    Raises:
        NodeError: this machine must not take part.
        StorageError: nothing can be written beside the run.
    """
    logs = folder / "logs"
    queued = job(getattr(options, "requeues", 0)) if os.environ.get(ranks.LAUNCHED) == "slurm" else None
    if ranks.launched() and options.hang_seconds is not None:
        heartbeat.begin(heartbeat.Limits(options.hang_seconds, options.phase_seconds), logs, queued)
    if ranks.local_rank() or os.environ.get(ranks.LAUNCHED) == "local":
        return
    try:
        admit(options, ranks.local_world(), folder, cordon)
    except NodeError as error:
        if ranks.world() > ranks.local_world():
            _leave(logs, error, queued)
        raise


def admit(options: Watched, devices: int, folder: Path, cordon: Path | None) -> None:
    """See that this machine may be used and, if that is asked for, that it is fit.

    Args:
        options: of the launcher.
        devices: processes that will compute here.
        folder: of the run.
        cordon: the folder of the list of nodes that no job is to use; None: there is none.

    Raises:
        NodeError: it may not, or is not, and is cordoned now.
    """
    if cordon is None:
        return
    several = ranks.launched() and ranks.world() > ranks.local_world()
    try:
        refuse(cordon)
        if options.health if options.health is not None else several or health.has_gpus():
            health.examine(devices, folder, cordon)
    except NodeError as error:
        record.note(folder / "logs", "unfit", node=error.where, why=error.what)
        raise


def _leave(logs: Path, error: NodeError, queued: str | None) -> None:
    """Take this machine out of a job of several: the others start again without it, where what started them can."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    if queued is not None:
        requeue(queued)
    time.sleep(_START_SECONDS)
    condemn(logs, f"{error.where} {error.what}", error.where)
    if ranks.under_torchrun():  # its agent would take part in the next start as well
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)
