"""The run's report: every figure from the run's own files, and the same ones on the page."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from groundup.callback import samples
from groundup.callback.history import METRICS, SPEED, History, read
from groundup.core.config import to_dict
from groundup.core.progress import Progress
from groundup.data.config import Shards
from groundup.model.config import Decoder
from groundup.objective.config import Denoise, Masked, Pretrain
from groundup.shard.manifest import Holding, Manifest, Vocabulary
from groundup.shard.storage import open_storage
from groundup.shard.writer import Writer
from groundup.tokenizer.byte import Bytes
from groundup.trainer import environment, segments
from groundup.trainer.device import processor
from groundup.trainer.report import (
    measure,
    over_restarts,
    sample_figures,
    speed_figures,
    training_texts,
    write_run_report,
)
from groundup.trainer.run import Outcome
from groundup.trainer.segments import Segment

TEXTS = {"bible": ["In the beginning God made it. " * 3, "日本語 too"], "code": ["def f(x): return x", ""]}


def prepare(folder: Path) -> Path:
    """A data folder of two sources, with a shard for each document."""
    tokenizer = Bytes()
    splits: dict[str, dict[str, Holding]] = {}
    for split in ("train", "held_out"):
        splits[split] = {}
        for name, texts in TEXTS.items():
            writer = Writer(folder, split, name, "uint16", 1, vocabulary=tokenizer.vocabulary, end=tokenizer.end)
            for text in texts:
                writer.add(np.array(tokenizer.encode(text), dtype=np.int32), len(text.encode()), {"text": text[:3]})
            splits[split][name] = Holding.of(writer.close())
    Manifest(Vocabulary(tokenizer.digest, tokenizer.vocabulary, tokenizer.end, "uint16"), splits).write(folder)
    tokenizer.save(folder / "tokenizer")
    return folder


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, Any, Outcome]:
    """The folder of a run of 20 steps that was resumed at step 10, its recipe and its outcome."""
    data, folder = prepare(tmp_path / "data"), tmp_path / "runs" / "nano" / "0123456789abcdef"
    Bytes().save(folder / "tokenizer")
    for step in range(1, 21):
        History(folder / METRICS).append(
            step, {"train/loss": 5.0 / step, "train/rate": 0.1, "train/gradient_norm": 1.0}
        )
    History(folder / METRICS).append(20, {"held_out/bible": 1.75, "held_out/all": 1.5})
    speed = History(folder / SPEED)
    for start in (0, 10):
        speed.append(start, {"speed/elapsed_seconds": 0.0})
        for step in (5, 10):
            speed.append(start + step, {"speed/elapsed_seconds": float(step), "speed/tokens_per_second": 100.0 * step})
    record = {"step": 20, "tokens": 640, "averaged": False}
    samples.add(
        folder,
        [
            {**record, "step": 10, "prompt": "In", "text": " xx"},
            {**record, "prompt": "In the", "text": " beginning God made <b>zz</b>. And"},
            {**record, "prompt": "def", "text": " f(x): return x."},
        ],
    )
    recipe = SimpleNamespace(
        name="nano",
        seed=3,
        tokens=640,
        model=Decoder(layers=1, width=8, heads=2, context=16, vocabulary=257),
        data=Shards(path=str(data), context=16),
        objective=Pretrain(),
        trainer=SimpleNamespace(accelerator="cpu", precision="fp32"),
    )
    changed = Segment(Progress(10, 20, 320), Progress(20, 40, 640), {"data.batch_tokens": 64}, "a larger batch")
    config = {"seed": 3, "model": to_dict(recipe.model), "optimizer": {"kind": "adamw", "rate": 3e-4}}
    segments.write(folder, config, [Segment(Progress(), Progress(10, 20, 320)), changed])
    return folder, recipe, Outcome(Progress(20, 40, 640), {"bible": 1.75, "code": 1.25, "all": 1.5}, 3.0)


def test_the_training_text_comes_back_as_it_went_in(tmp_path: Path) -> None:
    data = prepare(tmp_path)
    storage = open_storage(data)
    assert list(training_texts(storage, Bytes())) == [*TEXTS["bible"], *TEXTS["code"]]
    assert list(training_texts(storage, Bytes(), most_tokens=100)) == TEXTS["bible"][:1]


def test_every_figure_is_that_of_the_run(finished: tuple[Path, Any, Outcome]) -> None:
    figures = measure(*finished)
    assert (figures["steps"], figures["tokens"], figures["identity"]) == (20, 640, "0123456789abcdef")
    assert figures["held_out"] == {"bible": 1.75, "code": 1.25, "all": 1.5}
    assert figures["speed"]["elapsed_seconds"] == 20.0
    assert figures["speed"]["tokens_per_second"] == 750.0
    assert figures["speed"]["mfu"] is None
    trained = sum(len(text.encode()) + 1 for texts in TEXTS.values() for text in texts)
    assert figures["epochs"] == pytest.approx(640 / trained)
    statistics = figures["samples"]["statistics"]
    assert figures["samples"]["step"] == 20 and len(figures["samples"]["texts"]) == 2
    assert statistics["words"] == 10 and statistics["invalid"] == ("b", "zz") and statistics["valid"] == 0.7
    assert figures["segments"][1] == {"first": 10, "reason": "a larger batch", "set": {"data.batch_tokens": 64}}


def test_the_page_shows_the_figures_and_what_it_shows_is_escaped(finished: tuple[Path, Any, Outcome]) -> None:
    folder, *_ = finished
    page = write_run_report(*finished)
    html, text = page.read_text(), (folder / "report.md").read_text()
    for words in ("1.5000", "1.7500", "70.0%", "750", "20.0 s", "a larger batch", "rate 0.0003", "0123456789abcdef"):
        assert words in html and words in text, words
    assert "&lt;b&gt;zz" in html and "<b>zz" not in html
    assert "![" in text and (folder / "curves.png").exists() and "data:image/png" in html
    assert json.loads((folder / "report.json").read_text())["held_out"]["all"] == 1.5


@pytest.mark.parametrize(
    ("objective", "unit"),
    [(Pretrain(), "bits per byte"), (Masked(), "bits per hidden byte"), (Denoise(), "bits per restored byte")],
)
def test_the_page_says_what_its_figures_are_in(finished: tuple[Path, Any, Outcome], objective: Any, unit: str) -> None:
    folder, recipe, outcome = finished
    recipe.objective = objective
    write_run_report(folder, recipe, outcome)
    text = (folder / "report.md").read_text()
    assert f"| source | {unit} |" in text and text.count("bits per byte") == 2 * (unit == "bits per byte")
    assert ("no measure of the text" in text) == (unit != "bits per byte")


def test_the_last_scores_of_tasks_asked_on_the_way_are_on_the_page(finished: tuple[Path, Any, Outcome]) -> None:
    folder, *_ = finished
    assert measure(*finished)["tasks"] == []
    write_run_report(*finished)
    assert "## Tasks" not in (folder / "report.md").read_text()
    for step, value in ((10, 0.25), (20, 0.5)):
        History(folder / METRICS).append(step, {"evaluation/piqa-5-shot/acc": value})
    assert measure(*finished)["tasks"] == [{"task": "piqa-5-shot", "figure": "acc", "value": 0.5, "step": 20}]
    write_run_report(*finished)
    assert "| piqa-5-shot | acc | 0.5000 | 20 |" in (folder / "report.md").read_text()


def test_a_run_without_samples_or_speed_has_a_report_too(finished: tuple[Path, Any, Outcome]) -> None:
    folder, recipe, outcome = finished
    for name in (SPEED, samples.RECORDS, METRICS):
        (folder / name).unlink()
    text = write_run_report(folder, recipe, Outcome(outcome.progress, {"all": float("nan")}, 0.0)).read_text()
    assert "What it writes" not in text and "<img" not in text
    assert json.loads((folder / "report.json").read_text())["held_out"]["all"] is None


def test_times_of_a_resumed_run_are_added_up() -> None:
    assert over_restarts([0.0, 3.0, 5.0, 0.0, 7.0, 9.0, 0.0, 0.0, 1.0]) == 15.0
    assert over_restarts([]) == 0.0
    assert speed_figures({}) == dict.fromkeys(
        ["tokens_per_second", "mfu", "matrix_share", "training_seconds", "elapsed_seconds", "memory_bytes"]
    )


def test_without_records_there_are_no_statistics() -> None:
    assert sample_figures([], iter(["text"])) is None


def test_the_environment_names_processor_and_versions() -> None:
    found = environment.summary("cpu")
    assert processor() in found["device"] and found["torch"] and found["groundup"]


def test_the_history_of_a_folder_without_files_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / SPEED) == {} and samples.read(tmp_path) == []
