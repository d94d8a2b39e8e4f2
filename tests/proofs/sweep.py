"""Claims of the sweep: a study that is killed and shared ends with each of its trials once."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TRIALS, KILLS = 12, 3
CRASH = '''
"""A callback that raises."""
from typing import Any

import lightning

from groundup.core.config import option, schema


@schema("callback", "crash")
class Crash:
    """Raises at step 3."""

    raises: bool = option(False, "whether it does")

    def build(self) -> Any:
        return Raise(self.raises)


class Raise(lightning.Callback):
    def __init__(self, raises: bool) -> None:
        self.raises = raises

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.raises and module.progress.steps == 3:
            raise RuntimeError("this trial raises")
'''
RATES = [0.01 * number for number in range(1, 11)] + [1e30]
"""Eleven that do not raise; the last one's loss is no number after a few steps."""
SPACE = (
    "+sweep.space={crash: {key: callback.crash.raises, choices: [false, true]}, "
    f"rate: {{key: optimizer.rate, when: {{crash: false}}, choices: {RATES}}}}}"
)
TINY = [
    "model.layers=1",
    "model.width=32",
    "model.heads=2",
    "data.context=32",
    "data.batch_tokens=512",
    "data.micro_batch=8",
    "data.held_out_tokens=1024",
    "tokens=65536",
    "optimizer=sgd",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.log_every=1",
    "trainer.validate_every=null",
    "callback=[checkpoint,crash]",
    "callback.checkpoint.every=20",
    "plugins=[crash]",
]


def start(place: Path) -> subprocess.Popen[bytes]:
    """The sweep's command, in a group of its own."""
    words = ["--multirun", "hydra/sweeper=groundup", "sweep=search", "sweep.study=proof", "sweep.sampler=grid"]
    words += [f"sweep.trials={TRIALS}", SPACE, f"data.path={place / 'data'}"]
    command = [sys.executable, "train.py", *words, f"runs={place / 'runs'}", *TINY]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _path(place)}
    with (place / "log.txt").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)


def _path(place: Path) -> str:
    return os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])


def wrong(place: Path) -> str:
    """What is not as it should be in the study's folder; nothing, if all is."""
    folder = place / "runs" / "proof"
    trials: list[dict[str, Any]] = json.loads((folder / "trials.json").read_text())["trials"]
    if [trial["number"] for trial in trials] != list(range(TRIALS)):
        return f"trials {[trial['number'] for trial in trials]}"
    if len({json.dumps(trial["parameters"]) for trial in trials}) != TRIALS:
        return "a point was drawn twice"
    states = sorted(trial["state"] for trial in trials)
    if states != ["complete"] * (TRIALS - 2) + ["failed"] * 2:
        return f"states {states}"
    page = (folder / "report.html").read_text()
    for reason in ("the loss is nan", "RuntimeError: this trial raises"):
        if sum(reason in trial["reason"] for trial in trials) != 1 or reason not in page:
            return f"not in the report: {reason}"
    for trial in trials:
        found = [path for path in (folder / trial["folder"]).iterdir() if path.is_dir()]
        if len(found) != 1:
            return f"{trial['folder']} holds {len(found)} runs"
        with (found[0] / "metrics.csv").open() as file:
            steps = [int(row["step"]) for row in csv.DictReader(file) if row["name"] == "train/loss"]
        if steps != list(range(1, len(steps) + 1)) or (trial["state"] == "complete" and len(steps) != 128):
            return f"{trial['folder']} logged steps {steps}"
    return ""


def killed_and_shared() -> tuple[float, int]:
    """Trials that a sweep of 12 ends with, each once, after three kills and with two processes; 0 if one is wrong.

    The first two kills take the searcher and its trial, the third the searcher alone: its trial goes on by itself.
    """
    place = Path(tempfile.mkdtemp(prefix="groundup-proof-"))
    try:
        (place / "crash.py").write_text(CRASH)
        command = [sys.executable, "prepare.py", "source=[topics]", "tokenizer=bytes", f"path={place / 'data'}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        stream = random.Random(0)
        for number in range(KILLS):
            process = start(place)
            time.sleep(stream.uniform(15.0, 30.0))
            if process.poll() is not None:
                raise RuntimeError(f"the sweep ended before kill {number + 1}: {(place / 'log.txt').read_text()}")
            (os.killpg if number < KILLS - 1 else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
        pair = [start(place), start(place)]
        codes = [process.wait() for process in pair]
        why = wrong(place) or ("" if codes == [0, 0] else f"exit codes {codes}")
        if why:
            print(f"{why}\n{(place / 'log.txt').read_text()}", file=sys.stderr)
            return 0.0, TRIALS
        return float(TRIALS), TRIALS
    finally:
        shutil.rmtree(place)
