"""Laws of the local launcher, on real processes: all know their place, end together, and none is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DRIVE = Path(__file__).with_name("drive.py")
PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
HEAD = "import os, signal, subprocess, sys, time; from pathlib import Path; rank = int(os.environ['RANK']);"
BEGUN = "Path(sys.argv[1], f'{rank}.pid').write_text(str(os.getpid()));"
"""Processes write their number only when they are past what the test is not about."""

SLEEP = HEAD + BEGUN + "time.sleep(60)"
SECONDS = 20.0


def command(folder: Path, devices: int, program: str, grace: float = 5.0) -> list[str]:
    return [sys.executable, str(DRIVE), str(folder / "logs"), str(devices), str(grace), program, str(folder)]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in PLACE}


def run(folder: Path, devices: int, program: str, grace: float = 5.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, devices, program, grace), env=environment(), capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Launches in the background and waits until every rank has begun."""
    begun: list[subprocess.Popen[str]] = []

    def go(devices: int, program: str, grace: float = 5.0) -> subprocess.Popen[str]:
        line = command(tmp_path, devices, program, grace)
        begun.append(
            subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        until(lambda: len(pids(tmp_path)) >= devices)
        return begun[0]

    yield go
    for process in begun:
        process.kill()
        process.communicate()


def pids(folder: Path) -> list[int]:
    return [int(text) for path in folder.glob("*.pid") if (text := path.read_text())]


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def alive(number: int) -> bool:
    """Whether a process runs; one that ended and whose end nobody has asked for yet does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def nothing_is_left(folder: Path) -> None:
    numbers = pids(folder)
    assert numbers
    until(lambda: not any(alive(number) for number in numbers))


def test_each_process_is_told_its_place_as_torchrun_would(tmp_path: Path) -> None:
    names = [*PLACE, "GROUNDUP_LAUNCHED"]
    program = (
        HEAD + f"import json; print(json.dumps([os.environ[name] for name in {names}]), os.getsid(0) == os.getpid())"
    )
    done = run(tmp_path, 3, program)
    assert done.returncode == 0, done.stderr
    told = []
    for rank in range(3):
        text, leads = (tmp_path / "logs" / "1" / f"rank-{rank}.log").read_text().rsplit(maxsplit=1)
        told.append(json.loads(text))
        assert leads == "True"
    assert [place[:5] for place in told] == [[str(rank), "3", str(rank), "3", "127.0.0.1"] for rank in range(3)]
    assert len({place[5] for place in told}) == 1 and 1024 <= int(told[0][5]) <= 65535
    assert all(1 <= int(place[6]) <= max(1, len(os.sched_getaffinity(0)) // 3) for place in told)


def test_rank_0_is_shown_and_every_rank_is_kept_each_launch_in_a_folder_of_its_own(tmp_path: Path) -> None:
    program = HEAD + "print('out', rank); print('err', rank, file=sys.stderr)"
    first, second = run(tmp_path, 2, program), run(tmp_path, 2, program)
    for number, done in enumerate((first, second), 1):
        assert done.stdout.splitlines()[1:] == ["out 0", "err 0"]
        logs = tmp_path / "logs" / str(number)
        assert str(logs) in done.stdout.splitlines()[0]
        for rank in range(2):
            assert (logs / f"rank-{rank}.log").read_text().split("\n") == [f"out {rank}", f"err {rank}", ""]


def test_the_port_is_held_from_before_the_first_process_starts(tmp_path: Path) -> None:
    """Rank 1 connects while rank 0 has not begun to accept, and what it says arrives."""
    program = HEAD + (
        "import socket; place = (os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']));\n"
        "if rank:\n  with socket.create_connection(place) as line: line.sendall(b'early')\n"
        "else:\n  time.sleep(0.5); held = socket.socket(fileno=int(os.environ['GROUNDUP_LISTENING']));"
        " line = held.accept()[0]; print(line.recv(5))"
    )
    done = run(tmp_path, 2, program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["b'early'"]


def test_a_rank_that_raises_is_named_with_its_last_lines_and_ends_the_others(tmp_path: Path) -> None:
    program = HEAD + BEGUN + "time.sleep(0.3)\nif rank == 1: raise ValueError('what went wrong')\ntime.sleep(60)"
    done = run(tmp_path, 3, program)
    assert done.returncode == 1
    log = tmp_path / "logs" / "1" / "rank-1.log"
    *lines, last = done.stderr.splitlines()
    assert last.startswith("error: rank 1 on ") and last.endswith(
        f"ended with exit code 1, and the other processes were ended; all it said: {log}"
    )
    assert lines[-1] == "rank 1: ValueError: what went wrong"
    nothing_is_left(tmp_path)


def test_the_exit_code_is_that_of_the_rank_that_failed(tmp_path: Path) -> None:
    done = run(tmp_path, 2, HEAD + "time.sleep(60 * rank); sys.exit(7)")
    assert done.returncode == 7
    assert len(done.stderr.splitlines()) == 1  # what rank 0 says stands on the terminal already


def test_a_rank_killed_by_the_system_is_named_with_the_likely_reason(tmp_path: Path) -> None:
    program = HEAD + BEGUN + "time.sleep(0.3)\nif rank == 1: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)"
    done = run(tmp_path, 2, program)
    assert done.returncode == 128 + signal.SIGKILL
    assert "was killed by SIGKILL (the system does so when memory runs out)" in done.stderr
    nothing_is_left(tmp_path)


def test_a_rank_that_will_not_end_is_killed_with_all_it_started(tmp_path: Path) -> None:
    program = (
        HEAD
        + BEGUN
        + (
            "\nif rank == 0: time.sleep(0.5); sys.exit(3)\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
            "Path(sys.argv[1], 'child.pid').write_text(str(child.pid))\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
        )
    )
    begun = time.monotonic()
    done = run(tmp_path, 2, program, grace=0.5)
    assert done.returncode == 3
    assert time.monotonic() - begun < 15
    assert len(pids(tmp_path)) == 3
    nothing_is_left(tmp_path)


def test_a_launcher_that_is_killed_leaves_nothing(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    start(2, SLEEP).kill()
    nothing_is_left(tmp_path)


def test_a_process_that_asked_for_it_dies_with_the_one_that_started_it() -> None:
    """Not its launcher's doing: torchrun's agents, killed, would leave it behind."""
    child = "from groundup.launcher.processes import die_with_parent as d; d(); print('on', flush=True);"
    agent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child + 'import time; time.sleep(60)'!r}])"
    process = subprocess.Popen([sys.executable, "-c", agent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    process.kill()
    begun = time.monotonic()
    assert process.stdout.read() == ""  # it ends when nobody is left who could write
    assert time.monotonic() - begun < SECONDS
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once_to_every_rank(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    program = HEAD + (
        "note = lambda number, frame: (print('got', number, flush=True), sys.exit(0));"
        "signal.signal(signal.SIGINT, note); signal.signal(signal.SIGTERM, note);" + BEGUN + "time.sleep(60)"
    )
    launcher = start(2, program)
    launcher.send_signal(number)
    _, said = launcher.communicate(timeout=SECONDS)
    assert launcher.returncode == 128 + number
    assert said.startswith(f"error: {number.name}: ended all processes; the same command goes on")
    for rank in range(2):
        assert (tmp_path / "logs" / "1" / f"rank-{rank}.log").read_text() == f"got {number.value}\n"
    nothing_is_left(tmp_path)


def test_a_rank_that_is_asked_to_stop_may_take_longer_than_one_whose_neighbour_failed(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    save = "save = lambda *_: (time.sleep(1), print('saved', flush=True), sys.exit(0)); "
    launcher = start(1, HEAD + save + "signal.signal(signal.SIGTERM, save);" + BEGUN + "time.sleep(60)", grace=0.2)
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=SECONDS)
    assert launcher.returncode == 143
    assert (tmp_path / "logs" / "1" / "rank-0.log").read_text() == "saved\n"


def test_asking_twice_kills(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    launcher = start(1, HEAD + "signal.signal(signal.SIGINT, signal.SIG_IGN);" + BEGUN + "time.sleep(60)")
    launcher.send_signal(signal.SIGINT)
    time.sleep(0.3)
    launcher.send_signal(signal.SIGINT)
    launcher.communicate(timeout=SECONDS)
    assert launcher.returncode == 130
    nothing_is_left(tmp_path)


def test_the_launcher_needs_no_torch() -> None:
    code = "import sys, groundup.launcher.local; print(sorted({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
