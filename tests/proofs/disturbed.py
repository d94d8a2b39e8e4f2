"""Runs that are killed, asked to stop, or meet a fault, and go on by the same command to the very same end."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import SkipTest

from short_run import ROOT, command, environment, fingerprint, prepare, rows, run_folder

KILLED = ("tokens=1228800", "callback.checkpoint.every=11", "trainer.validate_every=120")
STEPS = 600
SHORT = (
    "model.width=32",
    "tokens=409600",
    "callback.checkpoint.every=20",
    "trainer.validate_every=80",
    "callback.checkpoint.keep_latest=1",
)


@dataclass
class Proof:
    """A run under test, beside the undisturbed one.

    Attributes:
        data: prepared.
        runs: where it goes.
        more: overrides.
        ranks: processes.
        log: what it said, all starts together.
    """

    data: Path
    runs: Path
    more: tuple[str, ...]
    ranks: int
    log: Path

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """One more start, in a process group of its own."""
        line = command(self.data, self.runs, *self.more, *more, ranks=self.ranks)
        with self.log.open("ab") as log:
            return subprocess.Popen(line, cwd=ROOT, env=environment(), stdout=log, stderr=log, start_new_session=True)

    def part(self, *more: str) -> None:
        """One more start that must end well.

        Raises:
            RuntimeError: it does not.
        """
        code, said = self.go(*more)
        if code:
            raise RuntimeError(said[-2000:])

    def go(self, *more: str) -> tuple[int, str]:
        """One more start, to its end: exit code, and what it said."""
        before = self.log.stat().st_size if self.log.exists() else 0
        code = self.start(*more).wait()
        return code, self.log.read_bytes()[before:].decode()

    @property
    def step(self) -> int:
        """The last step it has logged."""
        try:
            return max((int(row[0]) for row in rows(run_folder(self.runs)) if row[1] == "train/loss"), default=0)
        except (OSError, ValueError):
            return 0

    def wait_for(self, process: subprocess.Popen[bytes], step: int) -> bool:
        """Whether it comes to a step before it ends."""
        while self.step < step:
            if process.poll() is not None:
                return False
            time.sleep(0.05)
        return True


@contextmanager
def proof(more: tuple[str, ...], ranks: int = 1) -> Iterator[tuple[Proof, dict[str, str]]]:
    """A run to disturb, and what its end must be."""
    folder = Path(tempfile.mkdtemp(prefix="groundup-proof-"))
    try:
        data = prepare(folder)
        whole = Proof(data, folder / "whole", more, ranks, folder / "whole.txt")
        code, said = whole.go()
        if code:
            raise RuntimeError(said[-2000:])
        yield Proof(data, folder / "broken", more, ranks, folder / "broken.txt"), fingerprint(whole.runs)
    finally:
        shutil.rmtree(folder)


def same_end(run: Proof, wanted: dict[str, str], steps: int) -> bool:
    """Whether weights, optimizer, clock and log are bitwise those wanted, every step's samples used once."""
    got = fingerprint(run.runs)
    different = sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name))
    logged = [int(row[0]) for row in rows(run_folder(run.runs)) if row[1] == "train/loss"]
    if different or logged != list(range(1, steps + 1)):
        print(f"differs: {different[:5]}; {len(logged)} steps logged", file=sys.stderr)
    return not different and logged == list(range(1, steps + 1))


def kills(count: int, ranks: int = 1, *more: str) -> tuple[float, int]:
    """How many kills a run survived bitwise; 0 if its end differs.

    They are spread over the run by lot: each falls some steps after the one before, at a random moment; one in five
    falls in a start.
    """
    draw = random.Random(f"{count} {ranks} {more}")
    with proof((*KILLED, *more), ranks) as (run, wanted):
        for number in range(count):
            process = run.start()
            if draw.random() < 0.2:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(draw.uniform(0.1, 5.0))
            elif run.wait_for(process, int((number + draw.random()) * STEPS / (count + 3))):
                time.sleep(draw.uniform(0, 0.3))
            if process.poll() is not None:
                print(run.log.read_text()[-2000:], file=sys.stderr)
                return 0.0, number
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        code, said = run.go()
        if code:
            print(said[-2000:], file=sys.stderr)
            return 0.0, count
        return (float(count) if same_end(run, wanted, STEPS) else 0.0), count


def kills_on_one_rank() -> tuple[float, int]:
    """Forty kills of a run that reads in its own process."""
    return kills(40)


def kills_on_two_ranks() -> tuple[float, int]:
    """Ten kills of a run on two ranks."""
    return kills(10, 2, "strategy=ddp")


def kills_with_workers_2() -> tuple[float, int]:
    """Ten kills of a run that reads in two workers."""
    return kills(10, 1, "data.workers=2")


def faults() -> tuple[float, int]:
    """How many kinds of fault a run met with one clear line each, and went on from to the same end."""
    if os.geteuid():
        raise SkipTest("only root may mount a small disk")
    kinds: list[Callable[[Proof], str]] = [stopped, truncated_shard, flipped_byte, full_disk, read_only]
    held = 0
    with proof(SHORT) as (run, wanted):
        for kind in kinds:
            run.runs = run.runs.with_name(kind.__name__)
            run.runs.mkdir()
            run.log.unlink(missing_ok=True)
            with small_disk(run.runs) if kind in (full_disk, read_only) else contextlib.nullcontext():
                held += met(run, kind, wanted)
    with proof((*SHORT, "strategy=ddp"), 2) as (run, wanted):
        held += met(run, stopped, wanted)
    return float(held), len(kinds) + 1


def met(run: Proof, kind: Callable[[Proof], str], wanted: dict[str, str]) -> bool:
    """Whether a fault is met with a line and nothing is lost by it."""
    line = kind(run)
    code, said = run.go()
    print(f"{kind.__name__} on {run.ranks}: {line}", file=sys.stderr)
    if code:
        print(said[-2000:], file=sys.stderr)
    return not code and same_end(run, wanted, 200)


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A disk of 8 MB at a place."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def told(code: int, said: str, wanted: int, words: str) -> str:
    """The one line of an error.

    Raises:
        AssertionError: it is not as wanted, or there is more than one.
    """
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == wanted and len(lines) == 1 and words in lines[0], (code, said[-2000:])
    assert "Traceback" not in said, said[-2000:]
    return lines[0]


def stopped(run: Proof) -> str:
    """SIGTERM saves the step it falls in."""
    process = run.start()
    assert run.wait_for(process, 90), run.log.read_text()[-2000:]
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    said = run.log.read_text()
    checkpoints = (run_folder(run.runs) / "checkpoints").glob("step-*")
    assert max(int(path.name.split("-")[1]) for path in checkpoints) == run.step, "steps were lost"
    if run.ranks > 1:  # torchrun has its own exit code and much to say
        assert "was asked to stop" in said, said[-2000:]
        return next(line for line in said.splitlines() if line.startswith("error: "))
    return told(code, said, 143, "was asked to stop")


def truncated_shard(run: Proof) -> str:
    """A shard of the data loses its end."""
    run.part("stop_steps=90")
    shard = max((path for path in run.data.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = shard.read_bytes()
    shard.write_bytes(content[:-2])
    line = told(*run.go(), 2, "truncated")
    shard.write_bytes(content)
    return line


def flipped_byte(run: Proof) -> str:
    """A bit of the newest checkpoint is not what was written; the one before is taken."""
    run.part("stop_steps=90", "callback.checkpoint.keep_latest=2")
    newest = run_folder(run.runs) / "checkpoints" / "step-90"
    file = max(newest.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    code, said = run.go("stop_steps=100")
    lines = [line for line in said.splitlines() if "falling back" in line]
    assert not code and len(lines) == 1 and "step-90" in lines[0] and "step-80" in said, said[-2000:]
    return lines[0]


def full_disk(run: Proof) -> str:
    """The disk fills up while it trains, and is full still when it is started again."""
    process = run.start()
    assert run.wait_for(process, 90), run.log.read_text()[-2000:]
    filler = run.runs / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(run.runs).free - 600_000)))
    line = told(process.wait(), run.log.read_text(), 2, "No space left on device")
    again = told(*run.go(), 2, "free")
    filler.unlink()
    return f"{line}; then {again}"


def read_only(run: Proof) -> str:
    """Nothing may be written any more."""
    run.part("stop_steps=90")
    subprocess.run(["mount", "-o", "remount,ro", run.runs], check=True)
    code, said = run.go()
    subprocess.run(["mount", "-o", "remount,rw", run.runs], check=True)
    return told(code, said, 2, "cannot be written")
