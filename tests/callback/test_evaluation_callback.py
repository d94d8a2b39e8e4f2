"""Tasks asked while a run trains: their figures are logged, and the run is bitwise what it is without them."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import groundup.verb.prepare
import groundup.verb.train  # noqa: F401  # they register the groups
from groundup.callback.evaluation import MOST_TOLD, describe
from groundup.core.config import compose
from groundup.core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
composed = partial(compose.composed, ROOT / "conf")
SHAPE = ["model.layers=1", "model.width=32", "model.heads=2", "model.dropout=0.1"]
QUICK = ["data.context=64", "data.batch_tokens=512", "tokens=4096", "trainer.compile=false", "trainer.accelerator=cpu"]
WATCHED = ["trainer.validate_every=2", "trainer.log_every=1"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python's documentation topics."""
    folder = tmp_path_factory.mktemp("data") / "topics"
    config = composed("prepare", "source=[topics]", "tokenizer=bytes", "held_out=0.2", f"path={folder}")
    config.check()
    config.run()
    return folder


def trained(data: Path, runs: Path, *overrides: str) -> Path:
    """A run's folder."""
    config = composed("train", f"data.path={data}", f"runs={runs}", *SHAPE, *QUICK, *WATCHED, *overrides)
    config.check()
    config.run()
    folder: Path = config.folder()
    return folder


def rows(folder: Path) -> list[tuple[str, str, str]]:
    """The log: step, metric, value."""
    with (folder / "metrics.csv").open() as file:
        return [(row["step"], row["name"], row["value"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("averaging", ["checkpoint", "ema,checkpoint"])
def test_a_run_that_is_evaluated_is_bitwise_the_run_that_is_not(
    data: Path, tmp_path: Path, averaging: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = trained(data, tmp_path / "plain", f"callback=[{averaging}]")
    options = ["callback.evaluation.every=4", "callback.evaluation.limit=5"]
    asked = trained(data, tmp_path / "asked", f"callback=[{averaging},evaluation]", *options)
    assert plain.name == asked.name
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines() if "held_out_cloze acc" in line]
    assert [line[0] for line in lines] == ["step 4", "step 8"]
    assert all(re.fullmatch(r"held_out_cloze acc [\d.]+, held_out_continuation acc [\d.]+", line[1]) for line in lines)
    shown = json.loads((asked / "report.json").read_text())["tasks"]
    assert {(row["task"], row["step"]) for row in shown} == {("held_out_cloze", 8), ("held_out_continuation", 8)}
    mine = [row for row in rows(asked) if not row[1].startswith("evaluation/")]
    assert mine == rows(plain)
    for name in ("weights.safetensors",):
        one, other = ((folder / name).read_bytes() for folder in (plain, asked))
        assert hashlib.sha256(one).digest() == hashlib.sha256(other).digest()
    logged = [(step, name) for step, name, _ in rows(asked) if name.startswith("evaluation/")]
    assert {step for step, _ in logged} == {"4", "8"}
    assert {name for _, name in logged} == {
        "evaluation/held_out_cloze/acc",
        "evaluation/held_out_cloze/perplexity",
        "evaluation/held_out_continuation/acc",
        "evaluation/held_out_continuation/acc_norm",
    }


def test_a_line_has_groups_first_and_counts_what_is_too_much() -> None:
    def result(task: str, group: bool = False, shots: int = 0) -> dict[str, Any]:
        metrics = [{"name": name, "filter": "none", "value": 0.5} for name in ("perplexity", "acc")]
        return {"task": task, "group": group, "num_fewshot": shots, "metrics": metrics}

    failed = {"task": "broken", "group": False, "num_fewshot": 0, "error": "x"}
    many = [failed, *(result(f"t{number}") for number in range(MOST_TOLD + 1)), result("all", group=True, shots=5)]
    line = describe(3, many)
    assert line.startswith("step 3  all-5-shot acc 0.5000, t0 acc 0.5000, ")
    assert line.endswith(", and 2 more") and "broken" not in line


def test_an_evaluation_that_would_never_come_is_refused(data: Path, tmp_path: Path) -> None:
    for says, overrides in (
        ("there are none", ["trainer.validate_every=null"]),
        ("is no multiple of trainer.validate_every=2; set it to 2 or 4", ["callback.evaluation.every=3"]),
    ):
        with pytest.raises(ConfigError, match=says) as caught:
            trained(data, tmp_path, "callback=[checkpoint,evaluation]", *overrides)
        assert str(caught.value).startswith("callback.evaluation.every")
