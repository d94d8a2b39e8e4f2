"""Machines made of processes and network namespaces, and what runs on them noted; what is claimed is not known."""

from __future__ import annotations

import atexit
import csv
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import SkipTest

import witness

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "data.held_out_tokens=512",
    "optimizer=adamw",
    "trainer.compile=false",
    "trainer.precision=fp64",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.log_every=1",
    "trainer.validate_every=null",
    "plugins=[witness]",
]
SECONDS = 3600.0
"""After so long a job counts as stuck."""


@functools.cache
def place() -> Path:
    """A folder with the shards of the embedded corpus."""
    folder = Path(tempfile.mkdtemp(prefix="groundup-proof-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = [sys.executable, "prepare.py", "source=[topics]", "tokenizer=bytes", f"path={folder}/data"]
    subprocess.run(made, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def environment(**more: str) -> dict[str, str]:
    """What a process finds; torchrun keeps no store over restarts, since one that comes later would not find it."""
    paths = os.pathsep.join(filter(None, (str(ROOT / "tests/proofs"), os.environ.get("PYTHONPATH"))))
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return {**os.environ, **own, **more}


def program(name: str, *more: str) -> list[str]:
    """train.py and its overrides."""
    return ["train.py", f"data.path={place()}/data", f"runs={place()}/runs", f"name={name}", *SMALL, *more]


def agent(nodes: str, processes: int, endpoint: str, conf: str, *more: str) -> list[str]:
    """torchrun on one machine of several."""
    given = [f"--nnodes={nodes}", f"--nproc-per-node={processes}", "--rdzv-backend=c10d", "--rdzv-id=proof"]
    given += [f"--rdzv-endpoint={endpoint}", f"--rdzv-conf={conf}", *more]
    return [sys.executable, "-m", "torch.distributed.run", *given]


def start(command: list[str], log: str, **more: str) -> subprocess.Popen[bytes]:
    """A process whose words go to a file."""
    with (place() / log).open("ab") as file:
        return subprocess.Popen(command, cwd=ROOT, env=environment(**more), stdout=file, stderr=file)


def run_folder(name: str) -> Path:
    """The only run of a name: it is one however many ranks it had."""
    (folder,) = (place() / "runs" / name).iterdir()
    return folder


def await_(what: Callable[[], bool], agents: list[subprocess.Popen[bytes]]) -> None:
    """Look until something is so.

    Raises:
        RuntimeError: an agent ended before, or it took too long.
    """
    limit = time.monotonic() + SECONDS
    while not what():
        if time.monotonic() > limit or any(one.poll() is not None for one in agents):
            logs = "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(place().glob("*.log")))
            raise RuntimeError(f"agents ended with {[one.poll() for one in agents]}\n{logs}")
        time.sleep(0.05)


@functools.cache
def alone(name: str, *more: str) -> Path:
    """The run of one process that was never disturbed."""
    subprocess.run(
        [sys.executable, *program(name, *more)], cwd=ROOT, check=True, env=environment(), stdout=subprocess.DEVNULL
    )
    return run_folder(name)


class Launch:
    """What the ranks of one launch noted.

    Attributes:
        begin: the step it began at.
        world: its ranks.
        read: by step, what each rank read of it: micro-batches by number with their checksum.
        done: steps that all ranks noted.
    """

    def __init__(self, files: list[Path]) -> None:
        lines = [file.read_text().splitlines() for file in files]
        self.begin, self.world = map(int, lines[0][0].split())
        self.done = min(len(rows) for rows in lines) - 1 if len(files) == self.world else 0
        self.read: dict[int, list[str]] = {}
        for rows in lines:
            for row in rows[1:]:
                step, *found = row.split()
                self.read.setdefault(int(step), []).extend(found)


def launches(name: str) -> list[Launch]:
    """Those of a run, in their order."""
    files: dict[str, list[Path]] = {}
    for path in (place() / "runs" / name).glob(f"*/{witness.READ}/*-*.txt"):
        if path.stat().st_size:
            files.setdefault(path.name.split("-")[0], []).append(path)
    return [Launch(files[launch]) for launch in sorted(files, key=int)]


def differ_by(run: Path, other: Path) -> tuple[float, int]:
    """The largest difference of a logged loss or gradient norm as a share of it, and of how many."""
    mine, wanted = logged(run), logged(other)
    if mine.keys() != wanted.keys():
        return float("nan"), len(wanted)
    return max(abs(mine[key] - value) / abs(value) for key, value in wanted.items()), len(wanted)


def logged(run: Path) -> dict[tuple[int, str], float]:
    """Losses and gradient norms by step and name."""
    names = ("train/loss", "train/gradient_norm")
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["name"] in names]
    found = {(int(row["step"]), row["name"]): float(row["value"]) for row in rows}
    if len(found) != len(rows):
        raise RuntimeError(f"{run} has steps twice")
    return found


@contextmanager
def two_namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces that a pair of virtual interfaces joins, 10.77.0.1 to 10.77.0.2.

    Raises:
        SkipTest: they cannot be made here.
    """
    if shutil.which("ip") is None or os.geteuid():
        raise SkipTest("network namespaces need root and the command ip")
    names = (f"groundup-{os.getpid()}-a", f"groundup-{os.getpid()}-b")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "join", "netns", names[0], "type", "veth", "peer", "name", "join", "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "join")
            for link in ("lo", "join"):
                ip("-n", name, "link", "set", link, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


def ip(*words: str) -> None:
    """Run the command ip.

    Raises:
        SkipTest: it is refused.
    """
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SkipTest(f"ip {' '.join(words)}: {done.stderr.strip()}")
