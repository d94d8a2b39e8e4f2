"""Claims of the trainer: what survives kills, faults and losses of power, and what saving costs.

Those of kills and faults stand in `disturbed`, those of the disk's calls in `powerless`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from disturbed import faults, kills_on_one_rank, kills_on_two_ranks, kills_with_workers_2  # noqa: F401  # claims
from powerless import calls_that_are_not_recorded, losses_of_power, stops_of_the_writer  # noqa: F401
from short_run import ROOT, command, environment, prepare, rows, run_folder


def asynchronous_save_blocks() -> tuple[float, int]:
    """The share of a save that waits which one beside training blocks, at 100M parameters."""
    done = subprocess.run(
        [sys.executable, "benchmarks/save.py"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    print(done.stdout, file=sys.stderr)
    row = json.loads(done.stdout.splitlines()[-1])
    return row["value"], row["parameters"]


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
