"""A search over a real program: what its trials are, how each ended, and what is refused before any begins."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import groundup.verb.train  # noqa: F401  # registers its groups
from groundup.core.config.compose import store
from groundup.core.errors import ConfigError, UserError
from groundup.sweep.check import check
from groundup.sweep.config import Median, Parameter, Search
from groundup.sweep.page import write
from groundup.sweep.study import Ending, Study, trial_of
from groundup.sweep.trial import own_overrides, reason
from hydra_plugins.groundup_sweeper import Program

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "model.layers=1",
    "model.width=32",
    "model.heads=2",
    "data.context=32",
    "data.batch_tokens=512",
    "data.micro_batch=16",
    "data.held_out_tokens=512",
    "tokens=4096",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "trainer.log_every=1",
    "callback=[checkpoint]",
]
RATES = {"rate": Parameter(key="optimizer.rate", choices=[0.1, 1e-6, 1e30])}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small text as bytes."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"Chapter {number}. " + "The quick brown fox jumps over the dog. " * 12)
    words = ["prepare.py", "source=[text]", f"source.text.path={folder}", "tokenizer=bytes", f"path={folder / 'data'}"]
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder / "data"


def program(monkeypatch: pytest.MonkeyPatch, *words: str, flags: tuple[str, ...] = ()) -> Program:
    """The train program as if called with these words."""
    store()
    monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), "-m", *flags, *words])
    config = compose("train", overrides=list(words), return_hydra_config=True)
    return Program(config, GlobalHydra.instance().config_loader(), list(words))


@pytest.fixture(autouse=True)
def conf() -> Any:
    """Hydra on the repository's presets."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def test_two_processes_share_a_sweep_and_go_past_a_trial_that_diverges(data: Path, tmp_path: Path) -> None:
    rates = "{rate: {key: optimizer.rate, choices: [0.1, 1e30]}}"
    words = ["--multirun", "sweep=search", "hydra/sweeper=groundup", "sweep.sampler=grid", f"+sweep.space={rates}"]
    command = [sys.executable, "train.py", *words, "optimizer=sgd", *TINY, f"data.path={data}", f"runs={tmp_path}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pair = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate() for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    found = json.loads((tmp_path / "search" / "trials.json").read_text())
    first, second = found["trials"]
    assert (first["state"], first["tokens"], found["best"]) == ("complete", 4096, 0)
    assert (second["state"], second["value"]) == ("failed", None)
    assert "the loss is" in second["reason"]
    page = (tmp_path / "search" / "report.html").read_text()
    for row in found["trials"]:
        assert html.escape(row["reason"]) in page
        assert all(row["state"] in out for out, _ in said)
        (run,) = (path for path in (tmp_path / "search" / row["folder"]).iterdir() if path.is_dir())
        assert (run / "report.json").exists() == (row["state"] == "complete")


def test_a_trial_that_falls_behind_is_given_up_and_stops_cleanly(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = program(monkeypatch, *TINY, f"data.path={data}", f"runs={tmp_path}", "trainer.threads=1")
    study = Study(tmp_path / "search", Search(space=RATES, pruner=Median(every_tokens=1024, after_trials=1)), {})
    ahead, behind = study.next(), study.next()
    assert ahead and behind
    trial_of(study.optuna, ahead.number).report(0.5, 1024)
    study.end(ahead, Ending("complete", value=0.4))
    config = called.compose([])
    config = called.compose(own_overrides(study, behind.number, config))
    config.check()
    config.run()
    assert study.given_up(behind.number) == 1024
    assert study.rows()[1].looks.keys() == {1024}
    assert [path.name for path in (config.folder() / "checkpoints").glob("step-*")] == ["step-2"]
    assert not (config.folder() / "report.json").exists()
    os.close(behind.lock)
    again = study.next()
    assert again and again.given_up == 1024  # so that a searcher killed here does not run it once more


def test_a_trial_is_the_same_command_with_its_own_values_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["sweep=lr_batch", "sweep.trials=3", "optimizer=adamw", "optimizer.rate=0.1", "tokens=99999"]
    called = program(monkeypatch, *words, flags=("--config-dir", "mine"))
    assert called.command(["optimizer.rate=0.2", "name=trial-000"]) == [
        sys.executable,
        str(ROOT / "train.py"),
        "--config-dir",
        "mine",
        "optimizer=adamw",
        "tokens=99999",
        "optimizer.rate=0.2",
        "name=trial-000",
    ]
    config = called.compose(["optimizer=sgd", "optimizer.rate=0.3"])
    assert (config.sweep, config.optimizer.kind, config.optimizer.rate, config.tokens) == (None, "sgd", 0.3, 99999)


def test_a_trial_looks_at_token_counts_and_joins_the_group_of_its_study(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called = program(monkeypatch, *TINY, "logger=[csv,wandb]")
    pruner = Median(every_tokens=4096, after_trials=2)
    study = Study(tmp_path / "my study", Search(study="mine", space=RATES, pruner=pruner), {})
    config = called.compose(["data.batch_tokens=1024"])
    made = called.compose(["data.batch_tokens=1024", *own_overrides(study, 3, config)])
    assert made.trainer.validate_every == 4
    assert made.logger["wandb"].group == "mine"
    assert (made.callback["prune"].pruner, made.callback["prune"].trial) == (pruner, 3)
    assert made.callback["prune"].study == str(tmp_path / "my study")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"space": {}}, "sweep.space: holds no parameter"),
        ({"space": {"rate": Parameter(key="optimizer.rat", low=0.1, high=1.0)}}, "did you mean rate?"),
        ({"space": {"kind": Parameter(key="optimizer", choices=["muon", "adamm"])}}, "did you mean adam"),
        ({"space": {"rate": Parameter(key="optimizer.rate", low=-1.0, high=1.0)}}, "must be above 0"),
        ({"space": {"batch": Parameter(key="data.batch_tokens", choices=[512, 100])}}, "data.batch_tokens=100"),
        ({"space": {"width": Parameter(key="model.width", low=32.0, high=33.0)}}, "sweep.space.width"),
        ({"space": RATES, "pruner": Median(every_tokens=4096)}, "is not below tokens=4096"),
    ],
)
def test_a_space_the_config_does_not_take_is_refused_before_anything_is_written(
    options: dict[str, Any], says: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = program(monkeypatch, *TINY, f"data.path={data}", f"runs={tmp_path / 'runs'}")
    with pytest.raises(UserError) as caught:
        check(Search(**options), called)
    assert says in str(caught.value)
    assert "sweep." in caught.value.where
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("word", ["fresh=true", "stop_steps=3", "resume=x"])
def test_what_keeps_a_trial_from_its_end_is_refused(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=word.split("=")[0]):
        check(Search(space=RATES), program(monkeypatch, word))


def test_a_search_is_not_launched_as_ranks_of_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        check(Search(space=RATES), program(monkeypatch))


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        (-9, "", "killed by SIGKILL (out of memory?)"),
        (2, "step 1\nerror: step 3: the loss is nan; lower it\n", "step 3: the loss is nan; lower it"),
        (1, "Traceback\n  File\ntorch.OutOfMemoryError: CUDA\nsome remark\n", "torch.OutOfMemoryError: CUDA"),
        (1, "gone\n\n", "ended with code 1: gone"),
        (0, "", "ended with code 0"),
    ],
)
def test_a_failure_is_told_in_one_line(code: int, said: str, told: str) -> None:
    assert reason(code, said) == told


def test_a_page_shows_a_study_in_which_nothing_went_well(tmp_path: Path) -> None:
    study = Study(tmp_path, Search(space=RATES, sampler="random", trials=3), {})
    for ending in (Ending("failed", reason="no | luck"), Ending("pruned", reason="given up at 5 tokens")):
        taken = study.next()
        assert taken is not None
        study.end(taken, ending)
    assert study.next() is not None  # and one that runs
    page = write(study).read_text()
    assert "no | luck" in page
    assert "2 of 3" in page
    assert json.loads((tmp_path / "trials.json").read_text())["best"] is None


def test_a_page_holds_optunas_plots_and_the_best_overrides(tmp_path: Path) -> None:
    space = {**RATES, "depth": Parameter(key="model.layers", low=1, high=8, integer=True)}
    study = Study(tmp_path, Search(space=space, sampler="random", trials=4), {})
    while taken := study.next():
        study.end(taken, Ending("complete", value=1.0 + taken.number))
    page = write(study).read_text()
    assert page.count("data:image/png") == 3
    best = study.rows()[0].chosen
    assert f"optimizer.rate={best['rate']!r} model.layers={best['depth']}" in page
