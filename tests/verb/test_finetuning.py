"""Whole runs on files of examples: pretrained or not, stopped, on two ranks; and what cannot be."""

from __future__ import annotations

import csv
import gzip
import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import together

import groundup.verb.train  # noqa: F401  # it registers the groups
from groundup.callback.tensors import read_all
from groundup.core import checkpoint
from groundup.core.config import compose
from groundup.core.errors import ConfigError, UserError
from groundup.data.config import Examples
from groundup.model.load import load
from groundup.objective.predict import Predictor
from groundup.tokenizer.byte import Bytes
from groundup.trainer.opening import open_run
from groundup.verb import examples

ROOT = Path(__file__).resolve().parents[2]
composed = partial(compose.composed, ROOT / "conf")
DAVIDSON = [place / "shared/data/bias/davidson_hate_offensive.jsonl.gz" for place in (ROOT, ROOT.parent)]
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


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
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


C = ("classification", "classification.jsonl")
MIXED, BOOLS = ("classification", "mixed.jsonl"), ("classification", "bools.jsonl")
BAD: dict[str, tuple[str, dict[str, Any] | str, dict[str, Any]]] = {
    r"bad\.jsonl:2: has no field label; give data\.label=FIELD; did you mean lable": (
        "classification",
        {"text": "a", "lable": "x"},
        {},
    ),
    r"bad\.jsonl:2: is not JSON": ("classification", "{", {}),
    r"bad\.jsonl:2: field text is empty": ("classification", {"text": " ", "label": "x"}, {}),
    r"bad\.jsonl:2: label in field label is empty": ("classification", {"text": "a", "label": ""}, {}),
    r"bad\.jsonl:2: score in field score is not finite, or beyond 1e100": (
        "regression",
        {"text": "a", "score": 10**400},
        {},
    ),
    r"bad\.jsonl:2: is no object": ("classification", "[1]", {}),
    r"bad\.jsonl:2: field text is no text but int": ("classification", {"text": 1, "label": "x"}, {}),
    r"bad\.jsonl:2: label in field label is no string or whole number but float; set objective\.task=regression": (
        "classification",
        {"text": "a", "label": 0.5},
        {},
    ),
    r"bad\.jsonl:2: score in field label is no number but str; for classes set objective\.task=classification": (
        "regression",
        {"text": "a", "label": "good"},
        {"score": "label"},
    ),
    r"bad\.jsonl:2: the text has 'bc' at start=1 and not the answer 'cd'": (
        "span",
        {"text": "abcd", "start": 1, "answer": "cd"},
        {},
    ),
    r"bad\.jsonl:2: start 3 and end 9 are no characters of a text of 4": (
        "span",
        {"text": "abcd", "start": 3, "end": 9},
        {"end": "end"},
    ),
    r"bad\.jsonl:2: has 2 starts and 1 answers": (
        "span",
        {"text": "abcd", "start": [1, 2], "answer": ["b"]},
        {},
    ),
    r"bad\.jsonl:2: has no field question": (
        "span",
        {"text": "abcd", "start": None},
        {"pair": "question"},
    ),
    r"data\.end=end: has no meaning with objective\.task=classification": (
        "classification",
        {"text": "a", "label": "x"},
        {"end": "end"},
    ),
}


def prepared(task: str, path: str, **further: Any) -> Path:
    """What a run does with a file of examples before it does anything else."""
    data = Examples(path=path, **{"tokenizer": "tokenizer", **further})
    return examples.prepared(data, task, None)


@pytest.mark.parametrize("says", BAD)
def test_an_example_that_cannot_be_used_is_told_with_its_line_and_leaves_nothing(says: str, place: Path) -> None:
    task, bad, further = BAD[says]
    good = {"text": "abcd", "label": "x", "score": 1.0, "start": 0, "end": 1, "answer": "a", "question": "q"}
    row = bad if isinstance(bad, str) else json.dumps(bad)
    (place / "bad.jsonl").write_text(f"{json.dumps({**good, 'label': 1.0} if task == 'regression' else good)}\n{row}\n")
    with pytest.raises(UserError, match=says) as caught:
        prepared(task, "bad.jsonl", **further)
    assert "\n" not in str(caught.value)
    assert not (place / "data").exists() or not list((place / "data").iterdir())


@pytest.mark.parametrize(
    ("says", "task", "path", "further"),
    [
        (r"mixed\.jsonl:3: label .* is a string, and that of mixed\.jsonl:1 a whole number; write", *MIXED, {}),
        (r"new\.jsonl:1: .* is a string, and that of bools\.jsonl:1 true or false", *BOOLS, {"held_out": "new.jsonl"}),
        (r"no weights whose tokenizer could be taken; give model\.init_from", *C, {"tokenizer": None}),
        (r"data\.tokenizer=data: holds no tokenizer", *C, {"tokenizer": "data"}),
        (r"nowhere\.jsonl: is missing", "classification", "nowhere.jsonl", {}),
        (r"none\.csv: ends in \.csv", "classification", "none.csv", {}),
        (r"empty\.jsonl: holds no example to train on", "classification", "empty.jsonl", {}),
        (r"empty\.jsonl: holds no example", *C, {"held_out": "empty.jsonl"}),
        (r"new\.jsonl:1: label z is none of those that are trained on \(x, y\)", *C, {"held_out": "new.jsonl"}),
        ("label x: is all there is", "classification", "one.jsonl", {}),
        ("all scores are 2", "regression", "same.jsonl", {}),
        (r"held_out_share=1e-09: holds out none of 80", *C, {"held_out_share": 1e-9}),
    ],
)
def test_a_file_that_cannot_be_used_is_told(
    says: str, task: str, path: str, further: dict[str, Any], place: Path
) -> None:
    write(place / "new.jsonl", [{"text": "a", "label": "z"}])
    write(place / "mixed.jsonl", [{"text": "a", "label": 1}, {"text": "b", "label": 2}, {"text": "c", "label": "1"}])
    write(place / "bools.jsonl", [{"text": "a", "label": True}, {"text": "b", "label": False}])
    write(place / "one.jsonl", [{"text": str(number), "label": "x"} for number in range(50)])
    write(place / "same.jsonl", [{"text": str(number), "score": 2} for number in range(50)])
    (place / "empty.jsonl").write_text("\n")
    (place / "none.csv").write_text("text,label\n")
    with pytest.raises(UserError, match=says) as caught:
        prepared(task, path, **further)
    assert "\n" not in str(caught.value)


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
