"""Laws of ranks that were launched here: they mean the same run or end together, and a slow one is named."""

from __future__ import annotations

import csv
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import groundup.verb.prepare
import groundup.verb.train  # noqa: F401  # these register what is composed
from groundup.callback.stragglers import slowest
from groundup.core import ranks
from groundup.core.config import compose
from groundup.launcher.job import Job
from groundup.launcher.record import events
from groundup.strategy.agreement import differences

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("launched.py")
WORLD, HOST = 3, socket.gethostname()
DRIVE = "from pathlib import Path; from groundup.launcher.local import Local; from groundup.launcher.job import Job;"
TINY = [
    "model.layers=1",
    "model.width=16",
    "model.heads=2",
    "data.context=16",
    "data.batch_tokens=64",
    "data.micro_batch=2",
    "data.held_out_tokens=64",
    "tokens=256",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "trainer.precision=fp32",
    "trainer.validate_every=null",
    "trainer.log_every=1",
    "callback=[checkpoint]",
    "seed=3",
]


def environment(**values: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in (*ranks.NAMES, ranks.LAUNCHED)}
    return {**kept, "OMP_NUM_THREADS": "1", **values}


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, object]], str, Path]:
    """What each rank saw, what rank 0 said, and the folder of the run."""
    folder = tmp_path_factory.mktemp("launched")
    job = Job("test", [sys.executable, str(SCRIPT), str(folder)], folder / "logs")
    code = f"{DRIVE} Local({WORLD}, 5.0, 20).launch(Job('test', {job.command!r}, Path({str(job.logs)!r})))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)], done.stdout, folder


def test_auto_is_ddp_among_processes_that_were_launched_here(launched) -> None:
    assert [(seen["backend"], seen["world"]) for seen in launched[0]] == [("gloo", WORLD)] * WORLD


def test_ranks_that_mean_the_same_go_on(launched) -> None:
    assert [seen["same"] for seen in launched[0]] == [None] * WORLD


def test_ranks_that_differ_all_end_with_the_same_line_that_says_who_and_in_what(launched) -> None:
    remedy = "start every rank with the same command, code and data"
    for name, key in (("seed", "seed"), ("config", "optimizer.rate")):
        line = f"ranks: do not agree: {key} is 7 on rank 2 on {HOST} and 0 on ranks 0-1 on {HOST}; {remedy}"
        assert [seen[name] for seen in launched[0]] == [line] * WORLD
    assert all(f"clock is 0 on rank 0 on {HOST} and 1 on rank 1" in seen["all"] for seen in launched[0])


def test_a_slow_rank_is_named_and_those_that_wait_for_it_are_not(launched) -> None:
    lines = [line for line in launched[1].splitlines() if "median rank" in line]
    assert len(lines) == 3  # of 12 steps, every 4
    for line in lines:
        told = re.fullmatch(rf"step +\d+  rank 1 on {HOST} computes up to ([\d.]+) times as long .*", line)
        assert told is not None and float(told[1]) > 1.5, line
    kept = events(launched[2] / "logs", "slow")
    assert [(line["step"], line["ranks"], line["nodes"]) for line in kept] == [(at, [1], [HOST]) for at in (4, 8, 12)]
    assert [f"step {line['step']}  {line['why']}" for line in kept] == lines


def test_a_rank_is_slow_against_the_median_and_only_above_the_factor() -> None:
    assert slowest([1.0, 1.0, 1.3, 1.0], 1.2) == ([2], 1.3)
    assert slowest([1.0, 1.0, 1.1, 1.0], 1.2) == ([], 1.1)
    assert slowest([1.0, 2.0], 1.2) == ([1], 2.0)  # of two the faster is the measure
    assert slowest([2.0, 1.0, 2.0, 1.0, 1.0], 1.2) == ([0, 2], 2.0)
    assert slowest([1.0, float("nan")], 1.2) == ([], None)


def test_a_field_that_a_rank_lacks_is_a_difference() -> None:
    assert differences([{"code": "a"}, {"code": "a", "more": "1"}], {}) == {
        "more": "more is absent on rank 0 and 1 on rank 1"
    }
    assert differences([{"code": "a"}, {"code": "a"}], {}) == {}


# The program itself


def train(data: Path, runs: Path, *overrides: str, **variables: str) -> subprocess.Popen[str]:
    line = [sys.executable, "train.py", *TINY, f"data.path={data}", f"runs={runs}", *overrides]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, cwd=ROOT, env=environment(**variables), stdout=pipe, stderr=pipe, text=True)


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "train/loss"]


def test_the_program_launches_itself_and_trains_what_one_process_does(data, tmp_path, one_thread) -> None:
    launched = train(data, tmp_path / "two", "launcher=local", "launcher.devices=2", "fresh=true")
    alone = compose.composed(ROOT / "conf", "train", *TINY, f"data.path={data}", f"runs={tmp_path / 'one'}")
    alone.check()
    alone.run()
    said, errors = launched.communicate(timeout=240)
    assert launched.returncode == 0, said + errors
    (folder,) = (tmp_path / "two" / "nano").iterdir()
    assert folder.name == alone.folder().name
    assert len(losses(folder)) == 4
    assert losses(folder) == pytest.approx(losses(alone.folder()), rel=1e-4)
    assert (folder / "weights.safetensors").exists()
    assert sorted(path.name for path in (folder / "logs" / "1").iterdir()) == ["rank-0.log", "rank-1.log"]
    assert "finished weights" in (folder / "logs" / "1" / "rank-0.log").read_text()
    assert (folder / "logs" / "1" / "rank-0.log").read_text() in said


def test_a_mistake_in_the_config_is_told_once_and_starts_nothing(data, tmp_path) -> None:
    wrong = train(data, tmp_path, "launcher=local", "launcher.devices=2", "optimizer.rate=-1")
    open_ended = train(data, tmp_path, "launcher=local")
    unmet = train(data, tmp_path, "launcher.devices=2")
    for process, line in (
        (wrong, "error: optimizer.rate=-1"),
        (open_ended, "error: launcher.devices=null: there is no GPU to count; give launcher.devices=N for N processes"),
        (unmet, "error: launcher.devices: no such option"),
    ):
        said, errors = process.communicate(timeout=240)
        assert process.returncode == 2
        assert len(errors.splitlines()) == 1 and errors.startswith(line), errors
        assert said == ""
    assert not (tmp_path / "nano").exists()


def test_tasks_of_srun_meet_and_if_they_differ_end_before_the_first_step_with_one_line(data, tmp_path) -> None:
    """As srun would start them; without torchrun, their place is in Slurm's variables alone."""
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0"}
    step |= {"SLURM_STEP_NODELIST": "a", "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0"}
    first, second = (
        train(data, tmp_path, f"seed={4 + int(rank)}", SLURM_PROCID=rank, SLURM_LOCALID=rank, **step) for rank in "01"
    )
    said, errors = first.communicate(timeout=240)
    assert (first.returncode, second.wait(timeout=240)) == (2, 2)
    assert errors.splitlines()[-1].startswith(f"error: ranks: do not agree: seed is 4 on rank 0 on {HOST} and 5 on")
    assert "error:" not in second.communicate()[1]
    assert "step" not in said.partition("steps 0 to")[2]
