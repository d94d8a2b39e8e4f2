"""Laws of archives: what is unpacked elsewhere repeats the run's losses bitwise, and says so when it does not."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from groundup.core.config import compose
from groundup.core.errors import CheckpointError, ConfigError
from groundup.trainer.environment import FILE
from groundup.verb import archive, prepare, repeat, train  # noqa: F401  # these register what the verbs are made of

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "model.layers=1",
    "model.width=16",
    "model.heads=2",
    "data.context=16",
    "data.batch_tokens=64",
    "data.micro_batch=2",
    "data.held_out_tokens=64",
    "tokens=512",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "trainer.validate_every=null",
    "trainer.log_every=2",
    "callback=[checkpoint]",
]


def do(verb, *overrides):
    config = compose.composed(ROOT / "conf", verb, *overrides)
    config.check()
    config.run()
    return config


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, and the folder its archive was unpacked into."""
    place = tmp_path_factory.mktemp("archive")
    do("prepare", "source=[topics]", "tokenizer=bytes", f"path={place}/data")
    run = do("train", *TINY, f"data.path={place}/data", f"runs={place}/runs").folder()
    names = archive.archive(run, place / "run.tar.gz", 1 << 26)
    with tarfile.open(place / "run.tar.gz") as tar:
        tar.extractall(place / "unpacked", filter="data")
    return place, run, names


def test_it_holds_code_config_figures_packages_and_data(made):
    place, run, names = made
    unpacked = place / "unpacked"
    assert sorted(names) == sorted(str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file())
    assert (unpacked / "run/metrics.csv").read_bytes() == (run / "metrics.csv").read_bytes()
    assert "torch==" in (unpacked / "requirements.lock").read_text()
    assert (unpacked / "code/src/groundup/verb/repeat.py").read_text() == Path(repeat.__file__).read_text()
    assert "FROM python:3." in (unpacked / "Dockerfile").read_text()


def test_its_own_code_repeats_the_losses_bitwise_in_a_clean_folder(made):
    unpacked = made[0] / "unpacked"
    environment = {**os.environ, "PYTHONPATH": "code/src", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "groundup.verb.repeat", "run", "--data", "data", "--losses", "3"]
    done = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"losses": 3, "to_step": 6, "bitwise_the_same": True}


def test_another_loss_in_the_log_is_found(made):
    place = made[0]
    other = place / "unpacked" / "run"
    rows = list(csv.reader((other / "metrics.csv").read_text().splitlines()))
    number = next(i for i, row in enumerate(rows) if row[:2] == ["4", "train/loss"])
    rows[number][2] = repr(float(rows[number][2]) * (1 + 1e-7))
    changed = place / "changed"
    changed.mkdir()
    for name in ("segments.jsonl", FILE):
        (changed / name).write_bytes((other / name).read_bytes())
    (changed / "metrics.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    done = repeat.repeat(changed, 20, place / "unpacked" / "data")
    assert sorted(step for step, (was, now) in done.losses.items() if was != now) == [4]
    assert len(done.losses) == 4
    assert not done.same


def test_other_shards_are_refused_before_anything_is_trained(made, tmp_path):
    do("prepare", "source=[topics]", "tokenizer=bytes", "seed=1", "held_out=0.2", f"path={tmp_path}/data")
    with pytest.raises(ConfigError, match=r"its manifest is .* and the run read"):
        repeat.repeat(made[1], 2, tmp_path / "data")


def test_shards_that_are_too_large_are_named_instead(made, tmp_path):
    names = archive.archive(made[1], tmp_path / "small.tar.gz", 10)
    assert not any(name.startswith("data/") for name in names)
    with tarfile.open(tmp_path / "small.tar.gz") as tar:
        assert "left out" in tar.extractfile("README.md").read().decode()


@pytest.mark.parametrize(("said", "summed_in_order"), [([], True), (["trainer.deterministic=false"], False)])
def test_a_run_on_a_cpu_sums_in_one_order_unless_it_need_not(made, tmp_path, said, summed_in_order):
    do("train", *TINY, f"data.path={made[0]}/data", f"runs={tmp_path}", *said)
    assert torch.are_deterministic_algorithms_enabled() == summed_in_order


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(CheckpointError, match="is no run folder"):
        archive.archive(tmp_path, tmp_path / "a.tar.gz", 10)
    assert archive.main([str(tmp_path / "nothing")]) == 2
    assert repeat.main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_no_package_is_locked_to_a_build_of_one_machine():
    assert archive.lock({"groundup": "0.1", "numpy": "2.1.0", "torch": "2.13.0+cpu"}) == "numpy==2.1.0\ntorch==2.13.0\n"
