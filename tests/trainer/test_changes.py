"""Laws of a run that is changed on its way, trained in this process on a tiny real corpus of two sources."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import editing
import processes
import pytest
import torch
from offering import offered

from groundup.callback import decisions
from groundup.callback.tensors import read_all
from groundup.core import checkpoint
from groundup.core.config import compose, fingerprint, to_dict
from groundup.core.errors import CheckpointError, ConfigError
from groundup.trainer import live, segments
from groundup.trainer.changes import Change, apply
from groundup.verb import prepare  # noqa: F401  # it registers what the verb is made of
from groundup.verb.train import Train

ROOT = Path(__file__).resolve().parents[2]
composed = partial(compose.composed, ROOT / "conf")
TINY = [
    "model.layers=2",
    "model.width=16",
    "model.heads=2",
    "model.dropout=0.1",
    "model.activation=gelu",
    "data.context=16",
    "data.batch_tokens=256",
    "data.micro_batch=8",
    "data.held_out_tokens=512",
    "tokens=12288",
    "optimizer=adamw",
    "optimizer.rate=0.003",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "trainer.precision=fp32",
    "trainer.log_every=1",
    "trainer.validate_every=6",
    "callback=[checkpoint]",
    "callback.checkpoint.every=null",
    "callback.checkpoint.keep_latest=99",
]
MIX = "{text: 1, stdlib: 9}"
PLAN = (
    "changes=["
    "{tokens: 2048, set: {model.activation: relu}},"
    "{tokens: 4096, set: {optimizer: muon, optimizer.rate: 0.01, objective.clip: 0.5}},"
    f"{{tokens: 6144, set: {{data.batch_tokens: 512, data.weights: {MIX}, data.ease_tokens: 2048}}}},"
    "{tokens: 9216, set: {schedule: linear, schedule.final: 0.5}, undo: [optimizer, model, data, objective]}]"
)
"""At steps 8, 16, 24 and 30."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order; and a person, as an option of callbacks."""
    with offered("editor", editing.Options):
        yield


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project's guides and some of Python's library, as bytes."""
    folder = tmp_path_factory.mktemp("data") / "two"
    sources = ["source=[text,stdlib]", f"source.text.path={ROOT / 'docs' / 'guide'}", "source.stdlib.max_mb=0.1"]
    config = composed("prepare", *sources, "tokenizer=bytes", f"path={folder}")
    config.check()
    config.run()
    return folder


def made(data: Path, runs: Path, *overrides: str) -> Train:
    """The config of a run, checked."""
    config: Train = composed("train", f"data.path={data}", f"runs={runs}", *TINY, *overrides)
    config.check()
    return config


def run(data: Path, runs: Path, *overrides: str) -> Path:
    """Train as train.py does; the run folder."""
    config = made(data, runs, *overrides)
    config.run()
    return config.folder()


def tensors(folder: Path, step: int | None = None) -> dict[str, torch.Tensor]:
    """What a checkpoint holds; the newest one's unless a step is given."""
    return read_all(checkpoint.listed(folder)[-1] if step is None else checkpoint.path_of(folder, step))


def end(folder: Path) -> dict[str, bytes]:
    """All bytes that a run's end consists of."""
    found = {name: value.numpy().tobytes() for name, value in tensors(folder).items()}
    weights = folder / "weights.safetensors"
    return {**found, **({"weights": weights.read_bytes()} if weights.exists() else {})}


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """The log: step, metric, value."""
    with (folder / "metrics.csv").open() as file:
        return [(row["step"], row["name"], row["value"]) for row in csv.DictReader(file)]


def activation(folder: Path, step: int) -> str:
    """That of the net in a checkpoint."""
    state = json.loads((checkpoint.path_of(folder, step) / "state.json").read_text())
    return str(state["nets"]["model"]["activation"])


@pytest.fixture(scope="module")
def changed(two: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GELU to ReLU, AdamW to Muon, other mix and batch, and back again, without a stop."""
    return run(two, tmp_path_factory.mktemp("changed"), PLAN)


def test_a_run_changed_on_its_way_ends_bitwise_the_same_wherever_it_is_stopped(
    changed: Path, two: Path, tmp_path: Path
) -> None:
    for stop in (8, 17, 26):
        folder = run(two, tmp_path, PLAN, f"stop_steps={stop}")
    assert run(two, tmp_path, PLAN) == folder
    assert folder.name == changed.name
    assert end(folder) == end(changed)
    assert rows(folder) == rows(changed)


def test_undone_changes_give_back_the_config_and_its_hash(changed: Path, two: Path) -> None:
    config, plan = made(two, changed.parents[1], PLAN), segments.read(changed)[1]
    assert [segment.first.steps for segment in plan] == [0, 8, 16, 24, 30]
    hashes = [fingerprint(to_dict(apply(config, segment.set))) for segment in plan]
    assert len(set(hashes)) == 5
    assert plan[-1].set == {"schedule": "linear", "schedule.final": 0.5}
    config.schedule = apply(config, plan[-1].set).schedule
    assert fingerprint(to_dict(config)) == hashes[-1]
    assert [activation(changed, step) for step in (8, 16, 24, 30, 42)] == ["gelu", "relu", "relu", "relu", "gelu"]
    assert json.loads((changed / "model.json").read_text())["model"]["activation"] == "gelu"


def test_another_optimizer_takes_over_what_means_the_same_to_it(changed: Path) -> None:
    matrix = "optimizer/model.trunk.blocks.0.feedforward.up.weight/"
    embedding = next(name for name in tensors(changed, 16) if name.endswith("embedding.weight/step"))
    held = {
        step: {n.rpartition("/")[2] for n in tensors(changed, step) if n.startswith(matrix)} for step in (16, 30, 42)
    }
    assert held == {16: {"exp_avg", "exp_avg_sq", "step"}, 30: {"momentum"}, 42: {"exp_avg", "exp_avg_sq", "step"}}
    assert [float(tensors(changed, step)[embedding]) for step in (16, 30, 42)] == [16, 30, 42]
    assert float(tensors(changed, 42)[f"{matrix}step"]) == 12


EDITS = {
    3: "- set: {optimizer.rate: 1e-3, model.activation: relu}\n- {tokens: 5120, set: {data.batch_tokens: 512}}",
    9: "- set: {optimizer.rte: 0.1}",
    25: "",
}
SAME = (
    "changes=[{tokens: 1280, set: {optimizer.rate: 0.001, model.activation: relu}},"
    "{tokens: 5120, set: {data.batch_tokens: 512}},"
    "{tokens: 8704, undo: [optimizer.rate, model.activation, data.batch_tokens]}]"
)
"""A file is acted upon at the second look, so at 5 and at 27 steps."""


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a person writes after how many steps."""
    folder = tmp_path_factory.mktemp("edits")
    for step, text in EDITS.items():
        (folder / f"{step}.yaml").write_text(text)
    return folder


def test_a_file_in_the_run_folder_does_what_the_same_plan_would_have_done_and_is_recorded(
    two: Path, edits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = "stop_steps=30"
    watch = ("callback=[checkpoint,editor]", f"callback.editor.folder={edits}", short)
    planned = run(two, tmp_path / "planned", SAME, short)
    capsys.readouterr()
    edited = run(two, tmp_path / "edited", *watch)
    told = [line for line in capsys.readouterr().out.splitlines() if "changes.yaml" in line]
    (wrong,) = (line for line in told if "no such option" in line)
    assert wrong.endswith("changes: optimizer.rte: no such option; did you mean rate?; the run goes on as it was")
    assert end(edited) == end(planned)
    assert rows(edited) == rows(planned)
    plan = segments.read(edited)[1]
    assert [(segment.first, segment.set) for segment in plan] == [
        (segment.first, segment.set) for segment in segments.read(planned)[1]
    ]
    assert plan[-1].set == {} == plan[0].set
    assert [(each.action, each.step) for each in decisions.read(edited)] == [("change", 5), ("change", 27)]
    for when in (6, 28):  # what was decided stands, what was done since is lost
        with pytest.raises(editing.Killed):
            run(two, tmp_path / "killed", *watch, f"callback.editor.die={when}")
        newest = checkpoint.listed(next((tmp_path / "killed" / "nano").iterdir()))[-1]
        (newest / checkpoint.MARKER).unlink()
        assert checkpoint.step_of(newest) == when - 1
        if when == 6:
            newest.rename(tmp_path / "lost")
    killed = run(two, tmp_path / "killed", *watch)
    assert end(killed) == end(edited)
    assert decisions.read(killed) == decisions.read(edited)


def test_all_ranks_follow_a_file_at_the_same_step(two: Path, edits: Path, tmp_path: Path) -> None:
    words = [f"data.path={two}", f"runs={tmp_path}", *TINY, "strategy=ddp", "data.micro_batch=4", "stop_steps=8"]
    watch = ["callback=[checkpoint,editor]", f"callback.editor.folder={edits}"]
    processes.together(Path(__file__).with_name("recovering.py"), *words, *watch, processes=2)
    (folder,) = (tmp_path / "nano").iterdir()
    assert [segment.first.steps for segment in segments.read(folder)[1]] == [0, 5, 20]
    assert [checkpoint.step_of(path) for path in checkpoint.listed(folder)] == [5, 8]
    assert activation(folder, 8) == "relu"


@pytest.fixture(scope="module")
def plain(two: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """A run that nothing changes."""
    return made(two, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("set: {model.activation: swiglu}", "changes: model.activation=swiglu: has other weights than gelu"),
        ("set: {model.activation: rlu}", "activation=rlu: allowed: relu2, relu"),
        ("set: {model.width: 32}", "changes: model.width: cannot change in flight; allowed: optimizer, schedule"),
        ("set: {optimizer: muom}", "changes: optimizer=muom: is not registered; did you mean muon?"),
        ("set: {optimizer: muon, optimizer.beta3: 1}", "changes: optimizer.beta3: no such option; did you mean beta"),
        ("set: {optimizer: muon, optimizer.rate: -1}", "optimizer.rate=-1: must be above 0"),
        ("set: {data.batch_tokens: 100}", "data.batch_tokens=100"),
        ("set: {data.weights: {text: 1}}", "data.weights: says nothing of source stdlib"),
        ("set: {schedule: cosine, schedule.warmup_steps: 9999}", "schedule.warmup_steps=9999: takes all of the run"),
        ("undo: [optimizer.rate]", "changes: undo=optimizer.rate: nothing before has changed it"),
    ],
)
def test_a_change_that_cannot_be_is_told_before_work_starts(change: str, what: str, plain: Train) -> None:
    values: dict[str, Any] = compose.parsed(f"{{{change}}}")
    config = replace(plain, changes=[Change(tokens=1024, **values)])
    with pytest.raises(ConfigError, match=re.escape(what)) as told:
        config.check_segments(config.course().segments())
    assert "\n" not in str(told.value)


def test_a_checkpoint_is_gone_on_from_with_the_activation_it_had(changed: Path, two: Path, tmp_path: Path) -> None:
    made(two, tmp_path, PLAN, f"resume={checkpoint.path_of(changed, 16)}")
    with pytest.raises(CheckpointError, match=r"model\.activation is relu there and gelu here"):
        made(two, tmp_path, f"resume={checkpoint.path_of(changed, 16)}")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("- set: {a: [}", "YAML"),
        ("optimizer.rate: 0.1", "is no list of changes; write lines like - set:"),
        ("- sets: {optimizer.rate: 0.1}", "changes.yaml[0].sets: is not a part of a change; did you mean set?"),
        ("- set: fast", "changes.yaml[0].set=fast: holds no keys"),
        ("- undo: optimizer", "changes.yaml[0].undo=optimizer: is no list of keys"),
        ("- {tokens: 0, set: {}}", "tokens=0: must be at least 1"),
        ("- {tokens: soon, set: {}}", "tokens=soon: is no number of tokens"),
        ("- {tokens: 5, set: {}}\n- set: {}", "is not in the order of its tokens"),
        ("- set: {optimizer.rate: .nan}", "holds a value that no option has"),
    ],
)
def test_a_file_that_is_no_list_of_changes_is_told_in_a_line(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / live.FILE).write_text(text)
    with pytest.raises(ConfigError, match=re.escape(what)) as told:
        live.read(tmp_path / live.FILE)
    assert "\n" not in str(told.value)


def test_numbers_in_a_file_are_read_as_on_the_command_line(tmp_path: Path) -> None:
    assert live.read(tmp_path / live.FILE) == []
    (tmp_path / live.FILE).write_text("# nothing yet\n")
    assert live.read(tmp_path / live.FILE) == []
    (tmp_path / live.FILE).write_text("- set: {optimizer.rate: 1e-3, data.weights: {a: 1}}\n")
    wanted: list[dict[str, Any]] = [{"set": {"optimizer.rate": 0.001, "data.weights": {"a": 1}}}]
    assert live.read(tmp_path / live.FILE) == wanted
