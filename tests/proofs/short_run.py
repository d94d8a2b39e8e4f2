"""A short run on real text that proofs disturb, and what of its end must be the same as if they had not."""

from __future__ import annotations

import csv
import hashlib
import os
import socket
import subprocess
import sys
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
