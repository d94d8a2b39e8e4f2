"""Tasks of lm-eval over our models: what is known of the answers comes back as figures, and failures are told."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from groundup.core.errors import ConfigError, DataError
from groundup.evaluation.config import Evaluation
from groundup.evaluation.held_out import CLOZE, CONTINUATION
from groundup.evaluation.scorer import Scorer
from groundup.evaluation.suite import Suite
from groundup.tokenizer.byte import Bytes


def none() -> dict[str, Path]:
    raise DataError("data", "holds no questions", "prepare it again")


def suite(tokenizer: Bytes, held_out: Callable[[], Any] = none, **options: Any) -> Suite:
    return Suite(Evaluation(**options), tokenizer, held_out)


def value(results: list[dict[str, Any]], task: str, metric: str) -> float:
    """The one figure of a task by its name."""
    (found,) = (m["value"] for r in results if r["task"] == task for m in r.get("metrics", []) if m["name"] == metric)
    return float(found)


def packaged(public: Path, names: list[str], tmp_path: Path) -> list[str]:
    """YAML files that are lm-eval's own tasks on local data: lm-eval's list of all its tasks takes seconds to read."""
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    files = {
        "piqa": ("piqa/piqa.yaml", {"validation": "piqa/validation.jsonl"}),
        "arc_easy": ("arc/arc_easy.yaml", {s: f"ai2_arc/ARC-Easy/{s}.jsonl" for s in ("train", "test")}),
        "lambada_openai": ("lambada/lambada_openai.yaml", {"test": "lambada_openai/test.jsonl"}),
        "hellaswag": ("hellaswag/hellaswag.yaml", {"validation": "hellaswag/validation.jsonl"}),
    }
    for name in names:
        source, splits = files[name]
        data = {split: str(public / file) for split, file in splits.items()}
        lines = [f"include: {root / source}", f"task: {name}_here", "tag: null", "dataset_path: json"]
        lines += ["dataset_name: null", f"dataset_kwargs: {{data_files: {json.dumps(data)}}}"]
        if "train" not in splits:
            lines.append("training_split: null")
        (tmp_path / f"{name}.yaml").write_text("\n".join(lines) + "\n")
    return [f"{name}_here" for name in names]


@pytest.fixture
def asked(public: Path, tmp_path: Path, tokenizer: Bytes) -> Callable[..., list[dict[str, Any]]]:
    """What the four tasks say of answers."""

    def run(answers: Any, names: list[str], **options: Any) -> list[dict[str, Any]]:
        tasks = packaged(public, names, tmp_path)
        return suite(tokenizer, tasks=tasks, include=[str(tmp_path)], **options).run(answers, "fp32")

    return run


def knowing(tokenizer: Bytes, wrong: bool) -> Any:
    import sys

    return sys.modules["evaluation_benchmarks"].Knowing(tokenizer, wrong)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_model_that_knows_the_answers_scores_one_and_one_that_shuns_them_none(
    asked: Callable[..., list[dict[str, Any]]], tokenizer: Bytes, wrong: bool
) -> None:
    names = ["piqa", "arc_easy", "lambada_openai", "hellaswag"]
    results = asked(knowing(tokenizer, wrong), names, limit=25)
    assert [result.get("error") for result in results] == [None] * 4
    for name in names:
        assert value(results, f"{name}_here", "acc") == (0.0 if wrong else 1.0)


def test_a_model_to_which_all_tokens_are_equal_scores_what_arithmetic_says(
    asked: Callable[..., list[dict[str, Any]]], build: Callable[..., Any], tokenizer: Bytes, public: Path, rows: Any
) -> None:
    net = build(context=2048)
    with torch.no_grad():
        net.head.weight.zero_()
    results = asked(Scorer(net, tokenizer, 8192), ["piqa", "lambada_openai"], limit=20)
    piqa = rows(public / "piqa/validation.jsonl")[:20]
    # Each token costs the same, so the shorter of two answers wins, by bytes here, and the first where they tie.
    shortest = [int(np.argmin([len(f" {row[f'sol{i}']}".encode()) for i in (1, 2)])) for row in piqa]
    expected = np.mean([choice == row["label"] for choice, row in zip(shortest, piqa, strict=True)])
    assert value(results, "piqa_here", "acc") == pytest.approx(expected)
    words = [row["text"].split(" ")[-1] for row in rows(public / "lambada_openai/test.jsonl")[:20]]
    nats = np.mean([len(f" {word}".encode()) * np.log(257) for word in words])
    assert value(results, "lambada_openai_here", "perplexity") == pytest.approx(np.exp(nats), rel=1e-4)
    assert value(results, "lambada_openai_here", "acc") == 0


def test_a_whole_text_is_as_likely_in_windows_as_the_definition_says(
    public: Path, build: Callable[..., Any], tokenizer: Bytes, rows: Any
) -> None:
    net = build(context=64)
    with torch.no_grad():
        net.head.weight.zero_()
    results = suite(tokenizer, tasks=[str(public / "tales.yaml")], limit=5).run(Scorer(net, tokenizer, 8192), "fp32")
    assert value(results, "tales", "bits_per_byte") == pytest.approx(np.log2(257), rel=1e-5)


def files(tmp_path: Path) -> dict[str, Path]:
    """Questions as prepare.py writes them, in which the gold is known."""
    draw = random.Random(0)
    cloze = [{"source": "a", "document": str(i), "context": f"w {i} is", "word": f"x{i}"} for i in range(12)]
    choices = [
        {"source": "a", "document": str(i), "context": f"c {i}", "choices": [f"a{i}", f"b{i}", f"c{i}", f"d{i}"]}
        | {"gold": draw.randrange(4)}
        for i in range(12)
    ]
    for name, items in ((CLOZE, cloze), (CONTINUATION, choices)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return {name: tmp_path / f"{name}.jsonl" for name in (CLOZE, CONTINUATION)}


class Oracle:
    """Likes the continuations that it was told."""

    context = 1000

    def __init__(self, tokenizer: Bytes, liked: set[str]) -> None:
        self.tokenizer, self.liked = tokenizer, liked

    def score(self, pairs: Any) -> list[tuple[float, bool]]:
        texts = [self.tokenizer.decode([*context, *continuation]) for context, continuation in pairs]
        return [(-0.5 if text in self.liked else -50.0, text in self.liked) for text in texts]

    def write(self, requests: Any) -> list[str]:
        raise AssertionError("these tasks ask for no text")


def test_the_tasks_made_by_prepare_know_what_is_right(tmp_path: Path, tokenizer: Bytes) -> None:
    made = files(tmp_path)
    items = [json.loads(line) for name in made for line in made[name].read_text().splitlines()]
    liked = {f"{i['context']} {i.get('word') or i['choices'][i['gold']]}" for i in items}
    results = suite(tokenizer, lambda: made).run(Oracle(tokenizer, liked), "fp32")
    assert value(results, CLOZE, "acc") == value(results, CONTINUATION, "acc") == 1
    assert value(results, CLOZE, "perplexity") == pytest.approx(np.exp(0.5))
    (choice,) = (r for r in results if r["task"] == CONTINUATION)
    assert choice["chance"] == 0.25
    assert choice["questions"] == 12
    assert choice["num_fewshot"] == 0
    results = suite(tokenizer, lambda: made).run(Oracle(tokenizer, set()), "fp32")
    assert value(results, CLOZE, "acc") == 0


def test_a_result_says_how_it_was_made(tmp_path: Path, tokenizer: Bytes, build: Callable[..., Any]) -> None:
    made = files(tmp_path)
    mine = suite(tokenizer, lambda: made, tasks=[CONTINUATION], batch=3, limit=5)
    (first,) = mine.run(Scorer(build(), tokenizer, 64, 3), "fp32")
    assert (first["batch"], first["start"], first["dtype"], first["context"]) == (3, tokenizer.end, "fp32", 256)
    assert first["versions"].keys() == {"groundup", "torch", "lm_eval", "datasets"}
    assert first["questions"] == 5
    assert len(first["hash"]) == 64
    (again,) = mine.run(Scorer(build(), tokenizer, 64, 3), "fp32")
    drop = ("seconds",)
    assert {k: v for k, v in first.items() if k not in drop} == {k: v for k, v in again.items() if k not in drop}


def test_one_number_of_examples_after_the_other(
    asked: Callable[..., list[dict[str, Any]]], build: Callable[..., Any], tokenizer: Bytes
) -> None:
    results = asked(Scorer(build(), tokenizer, 8192), ["arc_easy"], num_fewshot=[0, 2], limit=4)
    assert [result["num_fewshot"] for result in results] == [0, 2]
    assert results[0]["hash"] != results[1]["hash"]


def test_a_task_that_says_none_itself_gets_no_examples_and_a_note(tmp_path: Path, tokenizer: Bytes) -> None:
    made = files(tmp_path)
    for given, noted in ((None, False), (0, False), (2, True), ([0, 2], True)):
        mine = suite(tokenizer, lambda: made, tasks=[CLOZE], num_fewshot=given)
        (result,) = mine.run(Oracle(tokenizer, set()), "fp32")
        assert result["num_fewshot"] == 0
        assert bool(result["note"]) == noted


def test_a_task_that_fails_takes_no_other_with_it(tmp_path: Path, tokenizer: Bytes, build: Callable[..., Any]) -> None:
    made = files(tmp_path)
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        "task: broken\ndataset_path: json\ndataset_kwargs: {data_files: {test: /nowhere/at/all.jsonl}}\n"
        "output_type: loglikelihood\ntest_split: test\ndoc_to_text: a\ndoc_to_target: b\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    heard: list[str] = []
    mine = suite(tokenizer, lambda: made, tasks=[str(broken), CLOZE])
    results = mine.run(Scorer(build(), tokenizer, 4096), "fp32", lambda result: heard.append(result["task"]))
    assert heard == [str(broken), CLOZE]
    assert "data cannot be had" in results[0]["error"]
    assert results[1]["metrics"]


def test_generators_are_left_as_they_were(tmp_path: Path, tokenizer: Bytes, build: Callable[..., Any]) -> None:
    made = files(tmp_path)
    mine, scorer = suite(tokenizer, lambda: made), Scorer(build(), tokenizer, 4096)
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = random.random(), np.random.random(), torch.rand(1)
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    mine.run(scorer, "fp32")
    assert (random.random(), np.random.random(), torch.rand(1)) == expected


def test_a_task_that_nobody_knows_is_refused_with_the_nearest_name(tokenizer: Bytes) -> None:
    with pytest.raises(ConfigError, match=r"hellaswagg.*did you mean hellaswag"):
        suite(tokenizer, tasks=["hellaswagg"])
    with pytest.raises(ConfigError, match=r"nothere\.yaml.*not a file"):
        suite(tokenizer, tasks=["nothere.yaml"])
    with pytest.raises(DataError, match="holds no questions"):
        suite(tokenizer)


def test_local_data_of_a_packaged_task_is_found_by_its_name_or_its_data_sets(
    public: Path, tokenizer: Bytes, build: Callable[..., Any], tmp_path: Path
) -> None:
    names = ["piqa", "arc_easy", "lambada_openai"]
    mine = suite(tokenizer, tasks=names, data_dir=str(public), limit=3)
    results = mine.run(Scorer(build(), tokenizer, 4096), "fp32")
    assert [(result["task"], result.get("error")) for result in results] == [(name, None) for name in names]
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / "train.jsonl").write_text("{}\n")
    (failed,) = suite(tokenizer, tasks=["piqa"], data_dir=str(tmp_path)).run(Scorer(build(), tokenizer, 64), "fp32")
    assert "no file for the split validation" in failed["error"]


@pytest.mark.parametrize("given", ["x", [0, 0], [-1], "1,,"])
def test_numbers_of_examples_are_checked(given: Any) -> None:
    with pytest.raises(ConfigError, match="num_fewshot"):
        Evaluation(num_fewshot=given)


def test_numbers_of_examples_may_be_one_or_several() -> None:
    for given, meant in ((None, [None]), (5, [5]), ("0,5", [0, 5]), ([0, 1], [0, 1]), ("[0, 5]", [0, 5])):
        assert Evaluation(num_fewshot=given).shots == meant
