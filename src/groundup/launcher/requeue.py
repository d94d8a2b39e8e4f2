"""A job of Slurm that is queued again by one of its own processes; why is others' business."""

from __future__ import annotations

import os
import subprocess
import sys


def job(most: int) -> str | None:
    """The job of Slurm that this process belongs to, if it may be queued again: not yet `most` times."""
    count = os.environ.get("SLURM_RESTART_COUNT") or "0"
    return os.environ.get("SLURM_JOB_ID") if count.isdecimal() and int(count) < most else None


def requeue(job: str) -> None:
    """Ask Slurm to end a job and to queue it again; if it refuses, that is told."""
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60, check=False)
        said = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if said:
        print(f"scontrol requeue {job}: {said}", file=sys.stderr, flush=True)
