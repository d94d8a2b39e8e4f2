"""Laws of a whole run, trained in this process on a tiny real corpus."""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import fsspec
import pytest
import torch

from groundup.callback.tensors import read_all
from groundup.core import checkpoint
from groundup.core.config import compose
from groundup.core.errors import CheckpointError, StorageError
from groundup.tokenizer.protocol import CARD
from groundup.trainer.lock import only_one
from groundup.verb.train import Train

ROOT = Path(__file__).resolve().parents[2]
composed = partial(compose.composed, ROOT / "conf")
TINY = [
    "model.layers=2",
    "model.width=32",
    "model.heads=2",
    "model.dropout=0.1",
    "data.context=32",
    "data.batch_tokens=1024",
    "data.micro_batch=8",
    "data.held_out_tokens=2048",
    "tokens=30720",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "trainer.precision=fp32",
    "trainer.validate_every=8",
    "trainer.log_every=1",
    "callback=[checkpoint,ema]",
    "callback.checkpoint.every=5",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, and no quarrel over two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(data: Path | str, runs: Path, *overrides: str) -> Path:
    """Train as train.py does; the run folder."""
    config: Train = composed("train", f"data.path={data}", f"runs={runs}", *TINY, *overrides)
    config.check()
    config.run()
    return config.folder()


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """The log: step, metric, value."""
    with (folder / "metrics.csv").open() as file:
        return [(row["step"], row["name"], row["value"]) for row in csv.DictReader(file)]


def end(folder: Path) -> dict[str, str]:
    """Hashes of everything a run's end consists of."""
    last = checkpoint.listed(folder)[-1]
    found = {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in read_all(last).items()}
    found["weights"] = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    found["state"] = (last / "state.json").read_text()
    return found


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    return run(data, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_anywhere_ends_bitwise_as_if_it_had_not_been(
    whole: Path, data: Path, tmp_path: Path, workers: int
) -> None:
    for stop in (3, 8, 9, 20):
        run(data, tmp_path, f"stop_steps={stop}", f"data.workers={workers}")
        newest = checkpoint.listed(next((tmp_path / "nano").iterdir()))[-1]
        if stop in (9, 20):  # lose the newest one, so that steps already logged are done again
            (newest / checkpoint.MARKER).unlink()
    folder = run(data, tmp_path, f"data.workers={workers}")
    assert folder.name == whole.name
    assert rows(folder) == rows(whole)
    assert end(folder) == end(whole)


def test_a_run_on_shards_behind_a_url_is_the_run_on_the_folder(whole: Path, data: Path, tmp_path: Path) -> None:
    fsspec.filesystem("memory").put(str(data), "/run", recursive=True)
    folder = run("memory://run", tmp_path / "runs", f"data.cache={tmp_path / 'cache'}")
    assert folder.name == whole.name
    assert rows(folder) == rows(whole)
    assert end(folder) == end(whole)
    assert (folder / "tokenizer" / CARD).exists()


def test_a_change_of_batch_size_is_a_segment_and_resumes_bitwise(data: Path, tmp_path: Path) -> None:
    change = "changes=[{tokens: 9000, set: {data.batch_tokens: 2048, optimizer.rate: 0.01}}]"
    straight = run(data, tmp_path / "a", change)
    for stop in (6, 9, 12):
        run(data, tmp_path / "b", change, f"stop_steps={stop}")
    broken = run(data, tmp_path / "b", change)
    assert rows(broken) == rows(straight)
    assert end(broken) == end(straight)
    tokens = [float(value) for _, name, value in rows(straight) if name == "train/tokens"]
    assert {b - a for a, b in pairwise(tokens)} == {1024.0, 2048.0}


def test_micro_batches_of_any_size_give_the_same_losses(whole: Path, data: Path, tmp_path: Path) -> None:
    losses = []
    for size in (32, 16, 4):
        overrides = (f"data.micro_batch={size}", "model.dropout=0", "tokens=8192", "optimizer=sgd")
        folder = run(data, tmp_path / str(size), *overrides)
        losses.append([float(value) for _, name, value in rows(folder) if name == "train/loss"])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], abs=1e-5)


def test_the_same_command_on_a_finished_run_changes_nothing(
    whole: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    assert run(data, whole.parents[1]) == whole
    assert "complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")} == before


def test_a_run_is_extended_in_place(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path, "tokens=8192")
    again = run(data, tmp_path, "tokens=8192", "extend_tokens=4096")
    assert first == again
    assert [int(step) for step, name, _ in rows(again) if name == "train/loss"] == list(range(1, 13))


def test_a_fresh_run_keeps_what_was_there(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path, "tokens=4096")
    run(data, tmp_path, "tokens=4096", "fresh=true")
    assert (first.with_name(f"{first.name}.1") / "weights.safetensors").is_file()
    assert (first / "weights.safetensors").is_file()


def test_a_fresh_run_does_not_take_the_folder_from_one_that_trains(whole: Path, data: Path) -> None:
    holder = (
        "import sys; from pathlib import Path; from groundup.trainer.lock import only_one\n"
        "with only_one(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(whole)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match="trains here already"):
            run(data, whole.parents[1], "fresh=true")
        process.communicate("")
    assert (whole / "weights.safetensors").is_file()


def test_checkpoints_hold_plain_values_only(whole: Path) -> None:
    for path in checkpoint.listed(whole):
        checkpoint.verify(path)
        for file in path.glob("*.distcp"):
            assert file.stat().st_size > 0
        assert all(isinstance(value, torch.Tensor) for value in read_all(path).values())


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    second = (
        "import sys; from pathlib import Path; from groundup.trainer.lock import only_one\n"
        "with only_one(Path(sys.argv[1])): pass"
    )
    command = [sys.executable, "-c", second, str(tmp_path)]
    with only_one(tmp_path):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "StorageError" in result.stderr
    assert f"process {os.getpid()} trains here already" in result.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_a_checkpoint_reached_by_other_changes_is_refused(whole: Path, data: Path, tmp_path: Path) -> None:
    source = checkpoint.listed(whole)[-1]
    with pytest.raises(CheckpointError, match="another plan"):
        run(data, tmp_path, f"resume={source}", "changes=[{tokens: 2048, set: {optimizer.rate: 0.01}}]")
