"""Claims of the loosely coupled strategies: what they lose beside synchronous steps, and save, and survive."""

from __future__ import annotations

import csv
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (11, 12)
"""Rates were chosen on other seeds."""

STEPS, BATCH = 4000, 512
"""Many small steps: a gradient's noise limits the rate, as in runs that are worth sharing out, and 4 missed updates or
20 steps alone are a small part of what is learned."""
SMALL = [
    "model.layers=2",
    "model.width=64",
    "model.heads=2",
    "data.context=64",
    f"data.batch_tokens={BATCH}",
    "data.micro_batch=4",
    "data.held_out_tokens=65536",
    f"tokens={STEPS * BATCH}",
    "optimizer=adamw",
    "schedule.warmup_fraction=0.1",
    "trainer.compile=false",
    "trainer.precision=fp32",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    f"trainer.validate_every={STEPS}",
    "callback=[checkpoint]",
    "callback.checkpoint.every=null",
]
SYNCHRONOUS = ["strategy=single", "data.micro_batch=8", "optimizer.rate=6e-3"]
DILOCO = ["strategy=local_sgd", "strategy.every=20", "strategy.outer_momentum=0.7", "optimizer.rate=4e-3"]
UNEVEN = ["plugins=[uneven]", "strategy=uneven", "trainer.log_every=1", "data.micro_batch=8", "optimizer.rate=4e-3"]


@functools.cache
def place() -> Path:
    """A folder with the shards of the embedded corpus."""
    folder = Path(tempfile.mkdtemp(prefix="groundup-proof-"))
    make(folder)
    return folder


def make(folder: Path) -> None:
    """The shards, of bytes, so that a small network's time goes into its blocks."""
    made = [sys.executable, "prepare.py", "tokenizer=bytes", f"path={folder}/data"]
    subprocess.run(made, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def start(name: str, seed: int, more: list[str], processes: int = 1) -> list[subprocess.Popen[bytes]]:
    """A run in so many processes, with nobody who would end all if one dies."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join(filter(None, (str(ROOT / "tests/proofs"), os.environ.get("PYTHONPATH"))))
    base = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    if processes > 1:
        base |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    where = [f"data.path={place()}/data", f"runs={place()}/runs", f"name={name}-{seed}", f"seed={seed}"]
    return [
        subprocess.Popen(
            [sys.executable, "train.py", *where, *SMALL, *more],
            cwd=ROOT,
            env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else base,
            stdout=subprocess.DEVNULL,
        )
        for rank in range(processes)
    ]


@functools.cache
def trained(name: str, seed: int, *more: str, processes: int = 1) -> Path:
    """The folder of a run that all its processes ended well."""
    started = start(name, seed, list(more), processes)
    ends = [process.wait() for process in started]
    if any(ends):
        raise RuntimeError(f"{name} failed")
    return folder_of(name, seed)


def folder_of(name: str, seed: int) -> Path:
    """The only run of a name."""
    (folder,) = (place() / "runs" / f"{name}-{seed}").iterdir()
    return folder


def logged(run: Path, name: str) -> list[float]:
    """Every value that was logged under a name."""
    with (run / "metrics.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == name]


def beside(one: list[Path], other: list[Path]) -> tuple[float, int]:
    """The ratio of final held-out bits per byte, each the mean over seeds."""
    means = [sum(logged(run, "held_out/all")[-1] for run in runs) / len(runs) for runs in (one, other)]
    print(f"bits per byte {means[0]:.4f} beside {means[1]:.4f}", file=sys.stderr)
    return means[0] / means[1], len(one)


def synchronous() -> list[Path]:
    """Runs of one process, which is what any number of synchronous ones compute."""
    return [trained("synchronous", seed, *SYNCHRONOUS) for seed in SEEDS]


def uneven(name: str, bound: str) -> list[Path]:
    """Runs of a server and three workers, one of them slow."""
    more = [*UNEVEN, f"strategy.staleness={bound}"]
    runs = [trained(name, seed, *more, processes=4) for seed in SEEDS]
    for run in runs:
        stale = logged(run, "staleness/mean")
        most = max(logged(run, "staleness/max"))
        print(f"{name}: staleness mean {sum(stale) / len(stale):.2f}, most {most:.0f}", file=sys.stderr)
    return runs


def stale_within_the_bound() -> tuple[float, int]:
    """Bounded asynchronous SGD beside synchronous SGD."""
    return beside(uneven("bounded", "4"), synchronous())


def bound_off() -> tuple[float, int]:
    """Asynchronous SGD without a bound beside that with one."""
    return beside(uneven("unbounded", "null"), uneven("bounded", "4"))


def samples_not_used_once() -> tuple[float, int]:
    """Steps done never or twice over runs in which one of three workers is killed; all, where one does not end."""
    wrong = 0
    for seed in SEEDS:
        started = start("killed", seed, [*UNEVEN, "strategy.slowed=false", "strategy.staleness=4"], 4)
        runs = place() / "runs" / f"killed-{seed}"
        while not any(path.read_text().count("\n") > STEPS // 5 for path in runs.glob("*/done.txt")):
            time.sleep(0.05)
        started[2].send_signal(signal.SIGKILL)
        ends = [process.wait() for process in started]
        done = Counter((folder_of("killed", seed) / "done.txt").read_text().split())
        print(f"killed: processes ended with {ends}, {done.total()} updates", file=sys.stderr)
        wrong += STEPS if ends != [0, 0, -signal.SIGKILL, 0] else 0
        wrong += sum(done[str(number)] != 1 for number in range(STEPS)) + len(done.keys() - set(map(str, range(STEPS))))
    return float(wrong), STEPS * len(SEEDS)


def diloco_beside_synchronous() -> tuple[float, int]:
    """Two workers that meet every 20 steps beside synchronous SGD."""
    return beside([trained("diloco", seed, *DILOCO, processes=2) for seed in SEEDS], synchronous())


def diloco_traffic() -> tuple[float, int]:
    """Bytes that a worker handed over as a share of the gradients' of as many synchronous steps."""
    run = trained("diloco", SEEDS[0], *DILOCO, processes=2)
    total = logged(run, "outer/total_bytes")[-1]
    gradients = (run / "weights.safetensors").stat().st_size // 4 * 4  # fp32, and a header, which counts against us
    header = 8 + int.from_bytes((run / "weights.safetensors").read_bytes()[:8], "little")
    return total / (STEPS * (gradients - header)), int(total)


def tidy() -> None:
    """Remove what the claims made."""
    shutil.rmtree(place())
