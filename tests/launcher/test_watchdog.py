"""Laws of the watchdog: a job that hangs is found, its stacks are kept, it starts again; one that is slow goes on."""

from __future__ import annotations

import mmap
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from groundup.core import ranks
from groundup.launcher.heartbeat import Beat, Orders
from groundup.launcher.job import Job
from groundup.launcher.local import Local
from groundup.launcher.record import events
from groundup.launcher.supervisor import Budget, Supervisor
from groundup.launcher.watchdog import DUMPS, Watchdog, condemn, verdict

HOST = socket.gethostname()
SCRIPT = Path(__file__).with_name("hanging.py")


def test_a_rank_that_sleeps_in_a_collective_is_found_and_named_and_the_job_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in (*ranks.NAMES, ranks.LAUNCHED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    job = Job("test", [sys.executable, str(SCRIPT), str(tmp_path)], tmp_path / "logs")
    Supervisor(Local(2, 5.0, 5), Budget(1, 0.01)).launch(job)
    assert [(tmp_path / f"{rank}.done").read_text() for rank in range(2)] == ["2", "2"]
    assert [line["event"] for line in events(tmp_path / "logs")] == ["started", "hung", "failed", "restarted", "ended"]
    (hung,), (failed,) = events(tmp_path / "logs", "hung"), events(tmp_path / "logs", "failed")
    dumps = tmp_path / "logs" / DUMPS / "1"
    assert re.fullmatch(
        rf"step 2 did not end within 1.5 s: rank 1 on {HOST} stands in sleeper \(hanging.py:\d+\); "
        rf"rank 0 on {HOST} waits in a collective, in all_reduce \(distributed_c10d.py:\d+\); "
        rf"all stacks: {dumps}/rank-N.txt",
        hung["why"],
    )
    assert hung["step"] == 1 and failed["why"] == hung["why"]
    for rank in range(2):
        text = (dumps / f"rank-{rank}.txt").read_text()
        assert "Current thread" in text and str(SCRIPT) in text
    said = capfd.readouterr().out
    assert f"{hung['why']}; starting again from step 0 in 0.01 s" in said


class Sleeper:
    """A process that sleeps, and what its watchdog sees of it."""

    def __init__(self, logs: Path, rank: int, world: int, node: str = "a") -> None:
        line = ["sh", "-c", "trap '' QUIT; echo; exec sleep 600"]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline()  # from now on it ignores what asks for stacks
        self.process.stdout.close()
        self.files = (tempfile.TemporaryFile(), tempfile.TemporaryFile())  # noqa: SIM115
        self.files[0].truncate(64)
        self.memory = mmap.mmap(self.files[0].fileno(), 64)
        self.files[1].write(b"Current thread 0x0 (most recent call first):\n")  # as if it had been dumped
        self.files[1].flush()
        beats, stacks = (file.fileno() for file in self.files)
        self.beat(late=False)
        self.watchdog = Watchdog(
            Orders(self.process.pid, rank, world, node, str(logs), 1000.0, 1.0, beats, stacks, None)
        )

    def beat(self, *, late: bool, by: float = 1.0) -> None:
        Beat(time.monotonic() - (100.0 + by if late else 0.0), 100.0, 7, "step 8").write(self.memory)

    def looks(self, times: int) -> bool:
        return all(self.watchdog.look() for _ in range(times))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.watchdog.beats.close()
        self.memory.close()
        for file in self.files:
            file.close()


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Callable[..., Sleeper]]:
    """Makes sleepers of one job."""
    made: list[Sleeper] = []

    def go(rank: int, world: int, node: str = "a") -> Sleeper:
        made.append(Sleeper(tmp_path, rank, world, node))
        return made[-1]

    yield go
    for one in made:
        one.end()


def test_a_job_hangs_only_when_all_ranks_are_late(sleeper, tmp_path) -> None:
    """One may wait in its step while the other saves, which may take longer."""
    waits, saves = sleeper(0, 2), sleeper(1, 2)
    waits.beat(late=True)
    assert waits.looks(3) and saves.looks(3)
    assert (tmp_path / "watch" / "late-0").exists()
    waits.beat(late=False)
    assert waits.looks(1)
    assert not (tmp_path / "watch" / "late-0").exists()
    assert waits.process.poll() is None and verdict(tmp_path) == {}


def test_a_rank_that_waits_longer_than_any_other_may_take_hangs(sleeper, tmp_path, monkeypatch) -> None:
    waits = sleeper(1, 2)
    waits.beat(late=True, by=1001.0)
    monkeypatch.setattr("groundup.launcher.watchdog._WAIT_SECONDS", -0.9)  # rank 0 has no watchdog here
    assert not waits.looks(2)
    assert waits.process.wait(10) == -signal.SIGKILL
    why = "step 8 did not end within 100 s: rank 1 on a waits for what does not come"
    assert verdict(tmp_path)["why"] == why == events(tmp_path, "hung")[0]["why"]


def test_what_an_earlier_start_left_means_nothing(sleeper, tmp_path) -> None:
    folder = tmp_path / "watch"
    folder.mkdir()
    for name in ("late-0", "stacks-0"):
        (folder / name).write_text("{}")
    condemn(tmp_path, "that was before")
    now = sleeper(0, 1)
    assert now.looks(2)
    assert now.process.poll() is None


def test_a_verdict_kills_everywhere_but_on_a_machine_that_leaves(sleeper, tmp_path, capfd) -> None:
    stays, leaves = sleeper(0, 2), sleeper(1, 2, "b")
    condemn(tmp_path, "b is not fit", "b")
    assert leaves.looks(1) and not stays.looks(1)
    assert stays.process.wait(10) == -signal.SIGKILL
    assert capfd.readouterr().err == "watchdog: rank 0 is killed: b is not fit\n"


def test_the_watchdog_needs_no_torch() -> None:
    code = "import sys, groundup.launcher.watchdog; print(sorted({'torch', 'numpy', 'hydra'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_beat_is_read_as_it_was_written() -> None:
    with mmap.mmap(-1, 64) as memory:
        beat = Beat(1.5, 600.0, 7, "what follows a validation of a very long name")
        beat.write(memory)
        assert Beat.read(memory) == Beat(1.5, 600.0, 7, "what follows a validation of a very long")
