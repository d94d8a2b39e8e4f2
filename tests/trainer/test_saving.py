"""Laws of runs that save beside training: the same as if training had waited, stopped by a signal, or far from home."""

from __future__ import annotations

import csv
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import faults
import fsspec
import pytest
import torch
from offering import offered
from power import tree
from processes import launch, together

from groundup.callback import restored
from groundup.callback.stopping import Agreement, Requests, StoppedError
from groundup.callback.tensors import hashes, read_all
from groundup.core import checkpoint
from groundup.core.config import compose
from groundup.core.errors import CheckpointError, ConfigError
from groundup.verb.train import Train

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("saving_ranks.py")
composed = partial(compose.composed, ROOT / "conf")
TINY = [
    "model.layers=2",
    "model.width=16",
    "model.heads=2",
    "data.context=16",
    "data.batch_tokens=128",
    "data.micro_batch=2",
    "data.held_out_tokens=128",
    "tokens=2560",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "trainer.precision=fp32",
    "trainer.validate_every=5",
    "trainer.log_every=1",
    "callback=[checkpoint,ema]",
    "callback.checkpoint.every=2",
]
STOP = ["callback=[checkpoint,ema,fault]", "callback.fault.what=signal"]


@pytest.fixture(scope="module", autouse=True)
def fault() -> Iterator[None]:
    """A callback that asks a run to stop, as an option of callbacks for these tests; sums in one order."""
    with offered("fault", faults.Options):
        yield


def run(data: Path, runs: Path, *overrides: str) -> Path:
    """Train as train.py does; the run folder."""
    config: Train = composed("train", f"data.path={data}", f"runs={runs}", *TINY, *overrides)
    config.check()
    config.run()
    return config.folder()


def losses(folder: Path) -> list[tuple[str, str]]:
    """Step and loss."""
    with (folder / "metrics.csv").open() as file:
        return [(row["step"], row["value"]) for row in csv.DictReader(file) if row["name"] == "train/loss"]


def steps(folder: Path) -> list[int]:
    """Of the checkpoints."""
    return [checkpoint.step_of(path) for path in checkpoint.listed(folder)]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that waits while it saves."""
    return run(data, tmp_path_factory.mktemp("whole"), "callback.checkpoint.asynchronous=false")


def test_a_run_that_saves_beside_training_leaves_the_very_same_checkpoints(whole, data, tmp_path) -> None:
    folder = run(data, tmp_path)
    assert steps(folder) == steps(whole)
    for one, other in zip(checkpoint.listed(folder), checkpoint.listed(whole), strict=True):
        assert tree(one) == tree(other)


def test_a_run_that_is_asked_to_stop_saves_the_step_and_goes_on_to_the_same_end(whole, data, tmp_path, capsys) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match="was asked to stop, and has saved step 7; the same command") as stopped:
        run(data, tmp_path, *STOP, "callback.fault.first=7")
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    (folder,) = (tmp_path / "nano").iterdir()
    assert steps(folder)[-1] == 7
    capsys.readouterr()
    assert run(data, tmp_path) == folder
    assert losses(folder) == losses(whole)
    assert tree(checkpoint.listed(folder)[-1]) == tree(checkpoint.listed(whole)[-1])
    said = capsys.readouterr().out
    table = said[said.index("restored from") :].splitlines()[1:8]
    parts = ["weights", "optimizer", "average", "recovery", "schedule", "position", "counters"]
    assert [line.split()[0] for line in table] == parts
    assert all("sha256" in line for line in table[:3])
    assert "betas 0.9 0.95" in table[1] and "step 7, 56 samples, 896 tokens" in table[5]
    assert "(was:" not in said


def test_a_stop_asked_for_where_a_validation_is_due_comes_a_step_later(data, tmp_path) -> None:
    with pytest.raises(StoppedError, match="has saved step 6"):
        run(data, tmp_path, *STOP, "callback.fault.first=5")


def test_two_ranks_stop_together_when_one_is_asked_to_and_end_as_if_nothing_had_been(data, tmp_path) -> None:
    def command(runs: str, *more: str) -> list[str]:
        spread = ["strategy=fsdp", f"data.path={data}", f"runs={tmp_path / runs}", "callback.checkpoint.keep_latest=99"]
        return [*TINY, *spread, *more]

    asked = launch(SCRIPT, *command("stopped", *STOP, "callback.fault.first=6", "callback.fault.rank=1"), processes=2)
    assert [one.wait(240) for one in asked] == [143, 143], "\n".join(one.output() for one in asked)
    said = "".join(one.output() for one in asked)
    assert said.count("error: ") == 1 and "has saved step 7" in said
    together(SCRIPT, *command("stopped"), processes=2)
    together(SCRIPT, *command("waits", "callback.checkpoint.asynchronous=false"), processes=2)
    one, other = (next((tmp_path / runs / "nano").iterdir()) for runs in ("stopped", "waits"))
    assert losses(one) == losses(other)
    assert set(steps(one)) == {7, *steps(other)}
    for path in checkpoint.listed(other):
        assert tree(checkpoint.path_of(one, checkpoint.step_of(path))) == tree(path)
        assert len(list(path.glob("*.distcp"))) == 2


def test_each_so_many_steps_one_stays(data, tmp_path) -> None:
    keep = [
        "callback.checkpoint.keep_every=8",
        "callback.checkpoint.keep_latest=1",
        "callback.checkpoint.keep_best=false",
    ]
    assert steps(run(data, tmp_path, *keep)) == [8, 16, 20]
    with pytest.raises(ConfigError, match="keep_every=3: is no multiple of every=2"):
        composed("train", *TINY, "callback.checkpoint.keep_every=3")


def test_a_run_whose_folder_is_lost_goes_on_from_the_newest_good_copy(whole, data, tmp_path, capsys) -> None:
    far = ["callback.checkpoint.mirror=memory://far/runs", "callback.checkpoint.keep_best=false"]
    folder = run(data, tmp_path, *far, "stop_steps=11")
    system = fsspec.filesystem("memory")
    place = f"/far/runs/nano/{folder.name}"
    copies = partial(system.ls, f"{place}/checkpoints", detail=False)
    assert sorted(path.rsplit("-", 1)[1] for path in copies()) == ["10", "11"]
    content = bytearray(system.cat_file(f"{place}/checkpoints/step-11/__0_0.distcp"))
    content[50] ^= 1
    system.pipe_file(f"{place}/checkpoints/step-11/__0_0.distcp", bytes(content))
    shutil.rmtree(folder)
    capsys.readouterr()
    assert run(data, tmp_path, *far) == folder
    said = capsys.readouterr().out
    assert "step 11: __0_0.distcp: differs from what was written; falling back to an older checkpoint" in said
    assert "step 10 is brought back from memory://far/runs/nano/" in said
    assert losses(folder) == losses(whole)
    assert tree(checkpoint.listed(folder)[-1]) == tree(checkpoint.listed(whole)[-1])
    assert sorted(path.rsplit("-", 1)[1] for path in copies()) == ["18", "20"]


def test_a_copy_that_cannot_be_made_is_told_of_and_the_run_goes_on(data, tmp_path, capsys) -> None:
    (tmp_path / "far").write_text("no folder")
    folder = run(data, tmp_path, f"callback.checkpoint.mirror=file://{tmp_path / 'far'}", "stop_steps=4")
    assert "step 4 is not copied: file://" in capsys.readouterr().out
    assert steps(folder)[-1] == 4
    with pytest.raises(ConfigError, match="mirror=odd://x: cannot be opened"):
        run(data, tmp_path, "callback.checkpoint.mirror=odd://x")


def test_what_differs_in_memory_from_what_was_saved_is_refused(whole) -> None:
    tensors = read_all(checkpoint.listed(whole)[-1])
    saved = hashes(tensors)
    restored.check(tensors, saved, "here")
    name = next(name for name in tensors if tensors[name].numel() > 1)
    tensors[name].view(-1)[0] += 1
    with pytest.raises(CheckpointError, match=f"{name} .* differs in memory"):
        restored.check(tensors, saved, "here")


def test_other_options_than_those_of_the_save_are_told() -> None:
    values = {"progress": {"steps": 3, "samples": 6, "tokens": 9}, "segments": "ab", "scores": {}}
    before = {"optimizer": [{"peak": 0.1, "betas": [0.9, 0.95]}], "schedule": {"kind": "wsd", "factor": 1.0}}
    now = {"optimizer": [{"peak": 0.1, "betas": [0.9, 0.99]}], "schedule": {"kind": "wsd", "factor": 1.0}}
    kinds = {"optimizer/a/exp_avg": ((2, 3), torch.float32)}
    lines = list(restored.table({**values, **before}, kinds, {}, now, "step-3"))
    assert lines[2].split(None, 1)[1] == (
        "no hash kept  1 tensors, 6 numbers; peak 0.1, betas 0.9 0.99 (was: peak 0.1, betas 0.9 0.95)"
    )
    assert "(was" not in "".join(lines[3:])


def test_whoever_wants_to_act_on_a_notice_does_so_once_the_run_has_saved() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    requests = Requests()
    try:
        requests.listen()
        signal.raise_signal(signal.SIGUSR2)
        assert requests.heard == signal.SIGUSR2 and not heard
        requests.pass_on()
        assert heard == [signal.SIGUSR2]
        signal.raise_signal(signal.SIGUSR2)  # the second time it is heard as before
        assert heard == [signal.SIGUSR2] * 2
    finally:
        requests.close()
        signal.signal(signal.SIGUSR2, before)


def test_one_that_is_alone_hears_itself_at_once() -> None:
    agreement = Agreement(2, alone=True)
    assert agreement.after_step(True, False) == [True, False]
    assert agreement.finish() == [False, False]
