"""Claims of the trainer: exact resume through kills, and across numbers of ranks."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from groundup.callback.tensors import read_all

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "model=nano",
    "model.layers=2",
    "model.width=64",
    "model.heads=2",
    "model.dropout=0.1",
    "data.context=64",
    "data.batch_tokens=2048",
    "data.micro_batch=8",
    "tokens=3072000",
    "trainer.compile=false",
    "trainer.precision=fp32",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.log_every=1",
    "trainer.validate_every=300",
    "data.held_out_tokens=8192",
    "callback=[checkpoint,ema]",
    "callback.checkpoint.every=23",
]
TIMES = ("seconds", "tokens_per_second", "mfu")


def prepare(folder: Path) -> Path:
    """A small real corpus: Python's documentation topics."""
    data = folder / "data"
    command = [sys.executable, "prepare.py", "source=[topics]", "tokenizer.vocabulary=1024", f"path={data}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return data


def command(data: Path, runs: Path, *more: str, ranks: int = 1) -> list[str]:
    """The command line of the run under test."""
    launch = [sys.executable]
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launch += ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={port}"]
    return [*launch, "train.py", f"data.path={data}", f"runs={runs}", "name=proof", *TINY, *more]


def environment() -> dict[str, str]:
    """One thread per process, so that sums are taken in one order."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run_folder(runs: Path) -> Path:
    """The only run below `runs`."""
    (folder,) = (path for path in (runs / "proof").iterdir() if path.is_dir())
    return folder


def fingerprint(runs: Path) -> dict[str, str]:
    """Hashes of all that must be the same: exported weights, every tensor of the last checkpoint, the log."""
    folder = run_folder(runs)
    last = max((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    found = {"step": last.name, "weights": hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()}
    for name, tensor in read_all(last).items():
        found[name] = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    found["log"] = repr(rows(folder))
    found["clock"] = (last / "state.json").read_text()
    return found


def rows(folder: Path) -> list[tuple[str, ...]]:
    """The rows of the log that do not measure time."""
    with (folder / "metrics.csv").open() as file:
        return [tuple(row.values()) for row in csv.DictReader(file) if not row["name"].endswith(TIMES)]


def kills(workers: int, count: int) -> tuple[float, int]:
    """How many kills a run survived bitwise; 0 if its end differs."""
    folder = Path(tempfile.mkdtemp(prefix="groundup-proof-"))
    try:
        data = prepare(folder)
        more = (f"data.workers={workers}",)
        whole = command(data, folder / "whole", *more)
        subprocess.run(whole, cwd=ROOT, check=True, env=environment(), stdout=subprocess.DEVNULL)
        wanted = fingerprint(folder / "whole")
        killed, draw = 0, random.Random(workers)
        broken = command(data, folder / "broken", *more)
        while True:
            with (folder / "log.txt").open("a") as log:
                process = subprocess.Popen(
                    broken, cwd=ROOT, env=environment(), stdout=log, stderr=log, start_new_session=True
                )
                limit = draw.uniform(3.0, 7.0) if killed < count else None
                try:
                    if process.wait(timeout=limit):
                        print((folder / "log.txt").read_text()[-2000:], file=sys.stderr)
                        return 0.0, killed
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    killed += 1
                    continue
            break
        got = fingerprint(folder / "broken")
        different = sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name))
        if different:
            print(f"differs: {different[:5]}", file=sys.stderr)
        return (0.0 if different else float(killed)), killed
    finally:
        shutil.rmtree(folder)


def kills_with_workers_0() -> tuple[float, int]:
    """Ten kills of a run that reads in its own process."""
    return kills(0, 10)


def kills_with_workers_2() -> tuple[float, int]:
    """Ten kills of a run that reads in two workers."""
    return kills(2, 10)


def one_rank_two_ranks_and_back() -> tuple[float, int]:
    """The largest difference of a logged loss between one rank throughout and one, two, one."""
    folder = Path(tempfile.mkdtemp(prefix="groundup-proof-"))
    try:
        data = prepare(folder)
        short = ("strategy=ddp", "tokens=245760", "optimizer.precision=fp32")  # bf16 would magnify other sums' rounding
        whole = command(data, folder / "whole", *short)
        subprocess.run(whole, cwd=ROOT, check=True, env=environment(), stdout=subprocess.DEVNULL)
        for ranks, stop in ((1, 40), (2, 80), (1, None)):
            more = [*short, *([f"stop_steps={stop}"] if stop else [])]
            began = time.monotonic()
            line = command(data, folder / "moved", *more, ranks=ranks)
            subprocess.run(line, cwd=ROOT, check=True, env=environment(), stdout=subprocess.DEVNULL)
            print(f"{ranks} ranks: {time.monotonic() - began:.0f} s", file=sys.stderr)
        one, other = (losses(run_folder(folder / name)) for name in ("whole", "moved"))
        if [row[:2] for row in one] != [row[:2] for row in other]:
            return float("nan"), len(one)
        return max(abs(a[2] - b[2]) for a, b in zip(one, other, strict=True)), len(one)
    finally:
        shutil.rmtree(folder)


def losses(folder: Path) -> list[tuple[str, str, float]]:
    """Step, metric and value of every logged loss and sample count."""
    return [(row[0], row[1], float(row[2])) for row in rows(folder) if row[1] in ("train/loss", "train/samples")]


def archive_repeats() -> tuple[float, int]:
    """The default run, packed, unpacked elsewhere, and trained again by what was packed."""
    with tempfile.TemporaryDirectory(prefix="groundup-proof-") as place:
        folder = Path(place)
        base = [f"data.path={folder}/data", f"runs={folder}/runs", "stop_steps=200"]
        for words in (["prepare.py", f"path={folder}/data"], ["train.py", *base]):
            subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        packed = ["groundup.verb.archive", str(folder / "runs/nano"), "--out", str(folder / "run.tar.gz")]
        subprocess.run([sys.executable, "-m", *packed], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        unpacked = folder / "unpacked"
        with tarfile.open(folder / "run.tar.gz") as tar:
            tar.extractall(unpacked, filter="data")
        shutil.rmtree(folder / "runs")
        shutil.rmtree(folder / "data")
        words = [sys.executable, "-m", "groundup.verb.repeat", "run", "--data", "data"]
        environment = {**os.environ, "PYTHONPATH": "code/src"}
        done = subprocess.run(words, cwd=unpacked, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout, file=sys.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    return float(found["losses"] - done.stdout.count("the loss was")), found["losses"]
