"""Laws of starting again: only what may help is done, later each time, and only until the budget is spent."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.core import ranks
from groundup.core.errors import RankError
from groundup.launcher.job import Job
from groundup.launcher.local import Local, StoppedError
from groundup.launcher.record import events
from groundup.launcher.stacks import place, who_stands_where
from groundup.launcher.supervisor import MOST_SECONDS, Budget, Supervisor

COUNT = (
    "import sys; from pathlib import Path; path = Path(sys.argv[1], 'starts'); path.touch();"
    "n = len(path.read_text()); path.write_text('.' * (n + 1));"
)
"""Counts the starts; `n` were before."""


@pytest.fixture
def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Launches a program on one process, under a budget."""
    for name in (*ranks.NAMES, ranks.LAUNCHED):
        monkeypatch.delenv(name, raising=False)

    def go(program: str, restarts: int = 2, wait: float = 0.01, reached: Callable[[], int] = lambda: 0) -> None:
        job = Job("test", [sys.executable, "-c", COUNT + program, str(tmp_path)], tmp_path / "logs", reached=reached)
        Supervisor(Local(1, 5.0, 5), Budget(restarts, wait)).launch(job)

    return go


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text())


def told(folder: Path) -> list[str]:
    return [line["event"] for line in events(folder / "logs")]


def test_a_job_that_fails_is_started_again_and_each_start_and_reason_is_kept(supervise, tmp_path, capsys) -> None:
    supervise("sys.exit(7 if n < 2 else 0)")
    assert told(tmp_path) == ["started", "failed", "restarted", "failed", "restarted", "ended"]
    failed = events(tmp_path / "logs", "failed")
    assert [line["exit_code"] for line in failed] == [7, 7]
    assert failed[0]["why"].startswith("rank 0 on ") and "ended with exit code 7" in failed[0]["why"]
    lines = [line for line in capsys.readouterr().out.splitlines() if "starting again" in line]
    assert len(lines) == 2
    assert lines[0].endswith("starting again from step 0 in 0.01 s (1 more restart without progress)")


def test_a_job_that_fails_at_the_same_place_is_given_up(supervise, tmp_path) -> None:
    with pytest.raises(
        RankError, match="given up, since it failed 3 times without getting beyond step 0; at last rank 0 on"
    ) as caught:
        supervise("sys.exit(7)")
    assert caught.value.exit_code == 7
    assert starts(tmp_path) == 3
    assert told(tmp_path)[-2:] == ["failed", "given_up"]


def test_progress_renews_the_budget(supervise, tmp_path) -> None:
    """Of six failures every other comes after a new checkpoint, so there are never two in a row without one."""
    supervise("sys.exit(7 if n < 6 else 0)", restarts=2, reached=lambda: starts(tmp_path) // 2 if told(tmp_path) else 0)
    assert starts(tmp_path) == 7


def test_what_a_user_must_put_right_is_not_tried_again(supervise, tmp_path) -> None:
    with pytest.raises(RankError, match="ended with exit code 2"):
        supervise("sys.exit(2)")
    assert starts(tmp_path) == 1


def test_a_job_that_decides_to_stop_is_not_started_again(supervise, tmp_path) -> None:
    supervise("sys.exit(0)")
    assert told(tmp_path) == ["started", "ended"]


def test_without_restarts_a_failure_is_told_as_it_is(supervise) -> None:
    with pytest.raises(RankError) as caught:
        supervise("sys.exit(7)", restarts=0)
    assert "given up" not in str(caught.value)


def test_waits_double_up_to_five_minutes() -> None:
    budget = Budget(restarts=100, backoff_seconds=5.0)
    assert [budget.wait(failures) for failures in (1, 2, 3, 7, 1000)] == [5.0, 10.0, 20.0, MOST_SECONDS, MOST_SECONDS]


def test_a_signal_ends_the_wait_and_nothing_starts_again(supervise, tmp_path) -> None:
    def ask() -> None:
        while "failed" not in told(tmp_path):
            time.sleep(0.02)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)

    asker = threading.Thread(target=ask)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # should it come too early
    signal.signal(signal.SIGTERM, before)
    asker.start()
    try:
        with pytest.raises(StoppedError) as caught:
            supervise("sys.exit(7)", wait=100.0)
    finally:
        asker.join()
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert starts(tmp_path) == 1


# Who stands where


def stack(*frames: tuple[str, int, str], current: bool = True) -> str:
    head = (
        "Current thread 0x00007f (most recent call first):" if current else "Thread 0x00007e (most recent call first):"
    )
    return "\n".join([head, *(f'  File "{file}", line {line} in {name}' for file, line, name in frames), ""])


WAITS = stack(("/v/torch/distributed/distributed_c10d.py", 2806, "all_reduce"), ("/a/train.py", 3, "main"))
BACKWARD = stack(("/v/torch/autograd/graph.py", 869, "_engine_run_backward"), ("/a/train.py", 3, "main"))
SLEEPS = stack(("/v/threading.py", 1, "wait"), current=False) + stack(("/a/mine.py", 7, "sleeper"))
ITEM = stack(("/a/base.py", 40, "step"))


def test_the_main_thread_is_told_apart_from_the_others() -> None:
    assert str(place(SLEEPS)) == "sleeper (mine.py:7)"
    assert place("") is None


def test_a_rank_outside_of_the_collective_is_named_first() -> None:
    told = who_stands_where({0: WAITS, 1: SLEEPS, 2: BACKWARD, 3: WAITS}, {0: "a", 1: "a", 2: "b", 3: "b"})
    assert told == (
        "rank 1 on a stands in sleeper (mine.py:7); "
        "ranks 0, 3 on a, b wait in a collective, in all_reduce (distributed_c10d.py:2806); "
        "rank 2 on b waits in a collective, in _engine_run_backward (graph.py:869)"
    )


def test_where_nobody_is_seen_in_a_collective_the_odd_one_is_named_first() -> None:
    assert who_stands_where({0: ITEM, 1: ITEM, 2: SLEEPS}, {}).startswith("rank 2 stands in sleeper")


def test_a_rank_that_tells_nothing_is_named_first() -> None:
    assert who_stands_where({0: WAITS, 1: ""}, {}).startswith("rank 1 told nothing; rank 0 waits")
