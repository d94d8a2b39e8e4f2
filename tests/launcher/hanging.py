"""What the tests run as one rank of several: hanging.py FOLDER; in its first start one rank sleeps in a collective."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from groundup.core import ranks
from groundup.launcher import heartbeat
from groundup.strategy.meeting import meet

STEPS, HANGS, SECONDS = 3, 2, 1.5


def sleeper() -> None:
    time.sleep(600)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    mark = folder / "slept"
    limit = 600.0 if mark.exists() else SECONDS
    heartbeat.begin(heartbeat.Limits(limit, 600.0), folder / "logs")
    meet(torch.device("cpu"), timedelta(seconds=120))
    for number in range(1, STEPS + 1):
        heartbeat.step(number, first=number == 1)
        if number == HANGS and ranks.rank() == 1 and not mark.exists():
            mark.touch()
            sleeper()
        count = torch.ones(())
        distributed.all_reduce(count)
        heartbeat.phase("between", number)
    (folder / f"{ranks.rank()}.done").write_text(str(int(count)))
