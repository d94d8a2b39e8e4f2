"""Whole runs on files of examples: pretrained or not, stopped, on two ranks; and what cannot be."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
import torch
from labelled import OPTIONS, ROOT, SPAN, composed, lines, options, own_folder, run, write  # noqa: F401  # the folder is a fixture
from processes import together

import groundup.verb.train  # noqa: F401  # it registers the groups
from groundup.callback.tensors import read_all
from groundup.core import checkpoint
from groundup.core.errors import ConfigError
from groundup.model.load import load
from groundup.objective.predict import Predictor
from groundup.trainer.opening import open_run

DAVIDSON = [place / "shared/data/bias/davidson_hate_offensive.jsonl.gz" for place in (ROOT, ROOT.parent)]


def log(folder: Path) -> list[tuple[str, str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [(row["step"], row["name"], row["value"]) for row in csv.DictReader(file)]


def end(folder: Path) -> dict[str, torch.Tensor]:
    return read_all(checkpoint.listed(folder)[-1])


@pytest.mark.parametrize("task", ["classification", "span"])
def test_a_run_stopped_anywhere_ends_bitwise_as_if_it_had_not_been(task: str) -> None:
    whole = run(*options(task), "runs=whole")
    run(*options(task), "runs=parts", "stop_steps=4", "data.workers=0")
    parts = run(*options(task), "runs=parts", "data.workers=1")
    assert (parts.name, log(parts)) == (whole.name, log(whole))
    one, other = end(whole), end(parts)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert {name.split(".")[0] for name in one if name.startswith("nets/")} == {"nets/model", "nets/task"}
    expect_report(whole, task)


def expect_report(folder: Path, task: str) -> None:
    """What a finished run tells of its examples, and what can be asked of it."""
    figures = json.loads((folder / "report.json").read_text())
    names = {
        "classification": {"accuracy", "macro_f1", "majority_accuracy", "majority_macro_f1"},
        "regression": {"pearson", "spearman", "mse", "mean_mse"},
        "span": {"exact_match", "f1", "no_answer_exact_match", "no_answer_f1"},
    }
    assert figures["held_out"].keys() == {"loss", "count", *names[task]}
    assert "Held-out examples" in (folder / "report.md").read_text()
    logged = {name for _, name, _ in log(folder)}
    assert {f"examples/{name}" for name in figures["held_out"]} <= logged
    assert not any(name.startswith("held_out/") for name in logged)
    assert load(folder).config.kind == "encoder", "the run folder is a model folder too"
    texts = [row["text"] for row in lines(5, task, 7)]
    told = Predictor(folder).predict(texts, ["which?"] * 5 if task == "span" else None)
    assert len(told) == 5
    for text, answer in zip(texts, told, strict=True):
        if task == "span" and answer["start"] is not None:
            assert answer["answer"] == text[answer["start"] : answer["end"]].strip()
        assert {"classification": "label", "regression": "score", "span": "answer"}[task] in answer


def test_predictions_are_those_that_were_measured() -> None:
    """And evaluate.py, which asks networks for text, says where they are to be had."""
    held_out = lines(30, "classification", 5)
    write(Path("dev.jsonl"), held_out)
    folder = run(*options("classification", "data.held_out=dev.jsonl", "data.epochs=6"))
    figures = json.loads((folder / "report.json").read_text())["held_out"]
    predictor = Predictor(folder)
    together = predictor.predict([row["text"] for row in held_out])
    right = [told["label"] == row["label"] for told, row in zip(together, held_out, strict=True)]
    assert figures["count"] == 30
    assert sum(right) / 30 == pytest.approx(figures["accuracy"])
    (alone,) = predictor.predict([held_out[3]["text"]])
    assert alone["probability"] == pytest.approx(together[3]["probability"], abs=1e-6)
    with pytest.raises(ConfigError, match=r"ask it more by groundup\.objective\.predict"):
        open_run(folder, print)


def test_predictions_read_as_much_and_answer_as_long_as_the_run_did_and_tell_of_what_is_cut() -> None:
    further = ("data.epochs=1", "model.context=64", "objective.answer_tokens=2", "trainer.validate_every=null")
    folder = run(*options("span", *further))
    predictor = Predictor(folder)
    assert (predictor.layout.context, predictor.net.context) == (32, 64)
    texts, pairs = ["abc", "a" * 40, "abx" * 5], ["which?", "which?", "w" * 100]
    with pytest.warns(UserWarning, match=r"^2 of 3 texts do not fit in context=32 and are cut$") as caught:
        found = predictor.predict(texts, pairs)
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    assert [answer["cut"] for answer in found] == [0, 40 + 6 - 29, 15 + 100 - 29]
    assert [answer["cut"] for answer in Predictor(folder, context=64).predict(texts[:2], pairs[:2])] == [0, 0]
    torch.nn.init.normal_(predictor.head.out.weight)  # so that long spans are as likely as short ones
    many = [row["text"] for row in lines(20, "span", 3)]
    told, two, long = (predictor.predict(many, ["which?"] * 20, most) for most in (None, 2, 30))
    assert told == two
    assert max(len(answer["answer"]) for answer in told) == 2 < max(len(answer["answer"]) for answer in long)
    with pytest.raises(ValueError, match="context=65 is more than the 64 positions"):
        Predictor(folder, context=65)


def test_weights_are_begun_with_and_their_tokenizer_is_taken() -> None:
    first = run(*options("classification"), "runs=first", "data.epochs=1", "trainer.validate_every=null")
    begun = [option for option in options("regression") if not option.startswith(("data.tokenizer", "model"))]
    second = run(
        *begun,
        "model=encoder",
        f"model.init_from={first}",
        "runs=second",
        "tokens=768",
        "data.epochs=null",
        "trainer.validate_every=2",
    )
    expect_report(second, "regression")
    before, after = load(first).state_dict(), load(second).state_dict()
    moved = {name: float((before[name] - after[name]).abs().max()) for name in before}
    assert moved["head.weight"] == 0
    assert 0 < max(moved.values()) < 0.05


def test_two_ranks_end_where_one_does(place: Path) -> None:
    further = ["strategy=ddp", "optimizer=sgd", "optimizer.rate=0.1", "callback=[checkpoint]", "stop_steps=6"]
    alone = run(*options("classification", *further), "runs=alone")
    together(ROOT / "train.py", *options("classification", *further), "runs=ranks", processes=2)
    (ranks,) = (place / "ranks" / "classify").iterdir()
    assert ranks.name == alone.name
    one, other = end(alone), end(ranks)
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-4)
    figures = [
        {
            (step, name): float(value)
            for step, name, value in log(folder)
            if name.startswith(("examples/", "train/loss"))
        }
        for folder in (alone, ranks)
    ]
    assert figures[0] == pytest.approx(figures[1], abs=1e-5)
    assert figures[0]["5", "examples/count"] == 5


def test_examples_and_text_are_for_objectives_of_their_own() -> None:
    for says, overrides in (
        ("objective=pretrain: is not for labelled examples; set objective=finetune", ["data=examples"]),
        ("objective=finetune: learns from labelled examples", ["objective=finetune"]),
    ):
        with pytest.raises(ConfigError, match=says) as caught:
            composed("train", *overrides).check()
        assert "\n" not in str(caught.value)


def test_a_runs_length_is_said_once() -> None:
    config = composed("train", *options("classification"))
    config.check()
    said = config.tokens
    assert said % 16 == 0 and 0 < said < 2 * 80 * 16
    config.check()
    assert config.tokens == said, "what was filled in is no contradiction"
    composed("train", *options("classification", f"tokens={said}")).check()
    with pytest.raises(
        ConfigError, match=rf"^tokens=4096: is not what data\.epochs=2 says, which is {said}; "
    ) as caught:
        composed("train", *options("classification", "tokens=4096")).check()
    assert "\n" not in str(caught.value)
    for given, expected in (("tokens=4096", 4096), ("tokens=null", 3_000_000)):
        config = composed("train", *options("classification", "data.epochs=null", given))
        config.check()
        assert (config.tokens, config.plan()[-1].last.tokens) == (expected, -(-expected // 256) * 256)
    longer = composed("train", *options("classification", "extend_tokens=1000"))
    longer.check()
    assert [segment.last.tokens for segment in longer.plan()] == [-(-said // 256) * 256, -(-(said + 1000) // 256) * 256]


def test_a_prepared_folder_serves_for_its_task_alone(place: Path) -> None:
    folder = run(*options("classification", "stop_steps=1"))
    (data,) = (place / "data").iterdir()
    given = [option for option in options("classification", "stop_steps=1") if not option.startswith("data.path")]
    assert run(*given, f"data.path={data}") == folder
    with pytest.raises(ConfigError, match=r"were prepared for objective\.task=classification"):
        run(*given, f"data.path={data}", "objective.task=span")


@pytest.mark.parametrize("copies", [0, 7])
def test_held_out_examples_that_are_trained_on_are_counted_and_told(
    copies: int, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, others = lines(80, "span"), lines(30, "span", 5)
    rows = [*({**row, "question": "where?"} for row in trained[:9]), *others, *trained[:copies]]
    known = {(row["text"], row["question"]) for row in trained}
    expected = sum((row["text"], row["question"]) in known for row in rows)
    assert expected == copies, "a text with another pair is another example"
    write(place / "dev.jsonl", rows)
    folder = run(*options("span", "data.held_out=dev.jsonl", "data.epochs=1"))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    note = f"note: {copies} of {len(rows)} held-out examples have the texts of one that is trained on: "
    assert [line.startswith(note) for line in told] == [True] * bool(copies)
    assert json.loads((folder / "report.json").read_text())["shared"] == copies
    page = (folder / "report.md").read_text()
    assert (f"{copies} of them have the texts of an example that was trained on" in page) == bool(copies)


def test_texts_that_are_the_same_are_on_one_side_and_packed_files_are_read(place: Path) -> None:
    rows = lines(60, "classification")
    with gzip.open(place / "packed.jsonl.gz", "wt") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows + rows)
    config = composed("train", *options("classification"), "data.path=packed.jsonl.gz")
    config.check()
    counts = json.loads(next((place / "data").glob("packed-*/manifest.json")).read_text())["about"]["examples"][
        "counts"
    ]
    assert sum(counts.values()) == 120 and counts["held_out"] % 2 == 0 < counts["held_out"]
    assert config.tokens == 2 * counts["train"] * 16
    assert config.objective.classes == ["x", "y"]


def test_real_tweets_are_learned_from(place: Path) -> None:
    found = next((path for path in DAVIDSON if path.is_file()), None)
    if found is None:
        pytest.skip(f"no labelled tweets at {DAVIDSON[1]}")
    with gzip.open(found, "rt") as file:
        (place / "tweets.jsonl").write_text("".join(file.readline() for _ in range(400)))
    further = ["data.path=tweets.jsonl", "data.context=96", "data.batch_tokens=3072", "data.epochs=1"]
    figures = json.loads((run(*options("classification", *further)) / "report.json").read_text())["held_out"]
    assert 20 <= figures["count"] <= 60
    assert figures["loss"] < 1.1, "that of knowing nothing of three classes"
