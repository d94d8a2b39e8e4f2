"""Files of examples whose answers follow from their texts, and runs on them."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import groundup.verb.train  # noqa: F401  # it registers the groups
from groundup.core.config import compose
from groundup.tokenizer.byte import Bytes

ROOT = Path(__file__).resolve().parents[2]
composed = partial(compose.composed, ROOT / "conf")
OPTIONS = [
    "experiment=classify",
    "model=encoder",
    "model.layers=1",
    "model.width=32",
    "model.heads=2",
    "model.dropout=0.1",
    "data.context=16",
    "data.batch_tokens=256",
    "data.micro_batch=4",
    "data.epochs=2",
    "optimizer.rate=3e-3",
    "callback=[checkpoint,ema]",
    "callback.checkpoint.every=3",
    "trainer.compile=false",
    "trainer.accelerator=cpu",
    "trainer.precision=fp32",
    "trainer.log_every=1",
    "trainer.validate_every=5",
]


def lines(many: int, task: str, seed: int = 0) -> list[dict[str, Any]]:
    """Examples whose answers follow from their texts."""
    draw, made = random.Random(seed), []
    for _ in range(many):
        letters = draw.choices("abcdef", k=8)
        place = draw.randrange(8)
        letters[place] = draw.choice("xy")
        text = "".join(letters)
        answers: dict[str, dict[str, Any]] = {
            "classification": {"label": letters[place]},
            "regression": {"score": float(letters[place] == "y")},
            "span": {"answers": {"text": [letters[place]], "answer_start": [place]}, "question": "which?"},
        }
        made.append({"text": text, **answers[task]})
    return made


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture(autouse=True, name="place")
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
    """A reader's own folder, with a tokenizer and a file of examples of each kind."""
    monkeypatch.chdir(tmp_path)
    Bytes().save(tmp_path / "tokenizer")
    for task in ("classification", "regression", "span"):
        write(tmp_path / f"{task}.jsonl", lines(80, task))
    return tmp_path


SPAN = ["data.start=answers.answer_start", "data.answer=answers.text", "data.pair=question", "data.context=32"]


def options(task: str, *further: str) -> list[str]:
    of_task = [*SPAN, "data.batch_tokens=512"] if task == "span" else []
    named = ["data.tokenizer=tokenizer", f"data.path={task}.jsonl", f"objective.task={task}"]
    return [*OPTIONS, *named, *of_task, *further]


def run(*overrides: str) -> Path:
    config = composed("train", *overrides)
    config.check()
    config.run()
    folder: Path = config.folder()
    return folder
