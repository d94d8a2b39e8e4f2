"""Watches one process of a job from outside, and with the watchdogs of the others finds when the job hangs.

Each process of a job has a watchdog. One that finds its process late says so by a file in the run's folder of logs, and
takes it back when the process goes on. A rank may wait for another that is allowed to take its time, while it saves
say, so the job hangs only when all are late: then each dumps its process's stacks, that of rank 0 names who stands
where and writes it down, and each kills its process. Whatever started the job starts it again.

The files bear the names `late-N`, `stacks-N` and `verdict`, below `watch`.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from groundup.core.errors import DataError
from groundup.core.files import atomic_json, atomic_write, make_folder, read_json, unused
from groundup.launcher import record
from groundup.launcher.heartbeat import DUMP, Beat, Orders
from groundup.launcher.processes import die_with_parent
from groundup.launcher.requeue import requeue
from groundup.launcher.stacks import who_stands_where

FOLDER, VERDICT = "watch", "verdict.json"
DUMPS = "hangs"
"""In the folder of logs: `<n>/rank-N.txt` has the stacks of all threads of a rank."""

_DUMP_SECONDS, _WAIT_SECONDS, _PAUSE = 5.0, 10.0, 0.1
"""How long a dump may take, how long files of others beyond what they need, and between looks for either."""


def verdict(logs: Path) -> dict[str, str]:
    """Why the processes of a job were, or are to be, killed: the last time that was so, and `why`; empty if never."""
    try:
        found: dict[str, str] = read_json(logs / FOLDER / VERDICT)
    except DataError:  # there is none
        return {}
    return found


def condemn(logs: Path, why: str, leaving: str = "") -> None:
    """Have all watchdogs of the job kill their processes, but for those of a machine that leaves it anyway.

    Raises:
        StorageError: it cannot be written.
    """
    atomic_json(logs / FOLDER / VERDICT, {"why": why, "leaving": leaving, "at": str(time.time_ns())})


class Watchdog:
    """Looks at a process now and then.

    Args:
        orders: whom, and where the others' files are.
    """

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.logs = Path(orders.logs)
        self.folder = make_folder(self.logs / FOLDER)
        self.beats = mmap.mmap(orders.beats, 0, access=mmap.ACCESS_READ)
        self.before = verdict(self.logs)
        self.late = False
        for name in ("late", "stacks"):  # an earlier start's
            self._file(name, orders.rank).unlink(missing_ok=True)

    def look(self) -> bool:
        """Look once, and do what follows from it; whether the process goes on."""
        now = verdict(self.logs)
        if now != self.before and now["leaving"] != self.orders.node:  # another found it
            self._kill(now["why"])
            return False
        beat = Beat.read(self.beats)
        over = time.monotonic() - beat.since - beat.seconds
        late, self.late = self.late, over > 0
        if not late or not self.late:  # one look proves nothing: the process may just have written a beat
            if late:
                self._file("late", self.orders.rank).unlink(missing_ok=True)
            return True
        self._say("late", json.dumps({"node": self.orders.node}))
        if over < self.orders.phase and not all(self._file("late", rank).exists() for rank in range(self.orders.world)):
            return True
        self._end(beat)
        return False

    def _end(self, beat: Beat) -> None:
        """Dump, name, kill."""
        self._say("stacks", json.dumps({"node": self.orders.node, "text": self._dump()}))
        if self.orders.rank == 0:
            self._judge(beat)
        until = time.monotonic() + 3 * (self.orders.look + _WAIT_SECONDS)
        while (now := verdict(self.logs)) == self.before and time.monotonic() < until:
            time.sleep(_PAUSE)
        if now == self.before:  # the watchdog of rank 0 sees no hang, or is gone
            self._condemn(beat, f"rank {self.orders.rank} on {self.orders.node} waits for what does not come")
        self._kill(verdict(self.logs)["why"])

    def _judge(self, beat: Beat) -> None:
        ranks = range(self.orders.world)
        until = time.monotonic() + self.orders.look + _WAIT_SECONDS  # by when all have looked
        while time.monotonic() < until and not all(self._file("stacks", rank).exists() for rank in ranks):
            time.sleep(_PAUSE)
        texts, nodes = {}, {}
        for rank in ranks:
            try:
                told = read_json(self._file("stacks", rank))
            except DataError:  # its watchdog is gone, or its machine
                told = {"text": ""}
            texts[rank] = told["text"]
            if "node" in told:
                nodes[rank] = told["node"]
        place = unused(lambda number: self.logs / DUMPS / str(number))
        for rank, text in texts.items():
            atomic_write(place / f"rank-{rank}.txt", text)
        where = who_stands_where(texts, nodes)
        self._condemn(beat, f"{where}; all stacks: {place}/rank-N.txt")

    def _condemn(self, beat: Beat, where: str) -> None:
        why = f"{beat.what} did not end within {beat.seconds:g} s: {where}"
        record.note(self.logs, "hung", step=beat.step, why=why)
        if self.orders.job is not None:
            requeue(self.orders.job)
        condemn(self.logs, why)

    def _dump(self) -> str:
        """The stacks of the process, empty if it writes none, as one that was stopped."""
        os.kill(self.orders.process, DUMP)
        size, until = 0, time.monotonic() + _DUMP_SECONDS
        while time.monotonic() < until:
            time.sleep(2 * _PAUSE)
            before, size = size, os.fstat(self.orders.stacks).st_size
            if 0 < size == before:
                break
        return os.pread(self.orders.stacks, size, 0).decode("utf-8", "replace")

    def _kill(self, why: str) -> None:
        print(f"watchdog: rank {self.orders.rank} is killed: {why}", file=sys.stderr, flush=True)
        with suppress(ProcessLookupError):
            os.kill(self.orders.process, signal.SIGKILL)

    def _file(self, name: str, rank: int) -> Path:
        return self.folder / f"{name}-{rank}"

    def _say(self, name: str, text: str) -> None:
        path = self._file(name, self.orders.rank)
        if not path.exists():
            atomic_write(path, text)


def main(text: str) -> None:
    """Watch the process that started this one until either ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a key pressed is for the process that is watched
    die_with_parent()
    watchdog = Watchdog(Orders(**json.loads(text)))
    while os.getppid() == watchdog.orders.process and watchdog.look():
        time.sleep(watchdog.orders.look)


if __name__ == "__main__":
    main(sys.argv[1])
