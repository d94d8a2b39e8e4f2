"""Public benchmarks in the form that lm-eval's own tasks read, and models that answer them from the raw data."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundup.generation import Options
from groundup.tokenizer.protocol import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
_PLACES = (ROOT / "shared/data/eval", ROOT.parent / "shared/data/eval")
SOURCE = next((path for path in _PLACES if path.is_dir()), None)
TASKS = ("piqa", "arc_easy", "lambada_openai", "hellaswag")


def raw(name: str) -> list[dict[str, Any]]:
    """The records of a public file."""
    assert SOURCE is not None
    with gzip.open(SOURCE / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def lay_out(folder: Path, questions: int) -> None:
    """Write `<task>/<split>.jsonl` for the four tasks, and `tales.yaml` with its texts for perplexity."""
    write(folder / "piqa/validation.jsonl", raw("piqa_valid")[:questions])
    write(folder / "lambada_openai/test.jsonl", raw("lambada_openai_test")[:questions])
    write(folder / "hellaswag/validation.jsonl", [hellaswag(row) for row in raw("hellaswag_val")[:questions]])
    write(folder / "ai2_arc/ARC-Easy/test.jsonl", [arc_test(row) for row in raw("arc_easy_test")[:questions]])
    train = [arc_train(row) for row in raw("arc_easy_train") if row["answer"] in "ABCD"]
    write(folder / "ai2_arc/ARC-Easy/train.jsonl", train[: max(20, questions)])
    write(folder / "tales.jsonl", [{"text": row["text"]} for row in raw("lambada_openai_test")[-questions:]])
    (folder / "tales.yaml").write_text(
        "task: tales\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'tales.jsonl'}}}}}\n"
        "output_type: loglikelihood_rolling\n"
        "test_split: test\n"
        'doc_to_text: ""\n'
        'doc_to_target: "{{text}}"\n'
        "metric_list:\n"
        + "".join(
            f"  - {{metric: {name}, aggregation: {how}, higher_is_better: false}}\n"
            for name, how in (
                ("word_perplexity", "weighted_perplexity"),
                ("byte_perplexity", "weighted_perplexity"),
                ("bits_per_byte", "bits_per_byte"),
            )
        )
        + "metadata: {version: 1.0}\n"
    )
    (folder / "going_on.yaml").write_text(
        "task: going_on\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'tales.jsonl'}}}}}\n"
        "output_type: generate_until\n"
        "test_split: test\n"
        'doc_to_text: "{{text[:120]}}"\n'
        'doc_to_target: "{{text[120:]}}"\n'
        'generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 40, do_sample: false}\n'
        "metric_list:\n"
        "  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"
        "metadata: {version: 1.0}\n"
    )


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def hellaswag(row: dict[str, Any]) -> dict[str, Any]:
    """The public file's form in the original one; its texts are cleaned already."""
    activity, _, context = row["ctx"].partition(": ")
    named = {"activity_label": activity, "ctx_a": context, "ctx_b": ""}
    return {**named, "endings": row["endings"], "label": str(row["label"])}


def arc_test(row: dict[str, Any]) -> dict[str, Any]:
    """Likewise, of the questions."""
    return arc(row["query"].removeprefix("Question: "), row["choices"], row["gold"])


def arc_train(row: dict[str, Any]) -> dict[str, Any]:
    """Likewise, of the examples."""
    return arc(row["question"], row["choices"], "ABCD".index(row["answer"]))


def arc(question: str, choices: list[str], gold: int) -> dict[str, Any]:
    """A question in the original form."""
    labels = ["A", "B", "C", "D", "E"][: len(choices)]
    return {"question": question, "choices": {"text": choices, "label": labels}, "answerKey": labels[gold]}


class Knowing:
    """Answers by what the raw data say is right, or, turned round, by what they say is wrong.

    A request is found by its words: each question's true continuation, said after its beginning, is a key.

    Args:
        tokenizer: turns ids back into text.
        wrong: prefer everything but the truth.
    """

    context = 100_000

    def __init__(self, tokenizer: Tokenizer, wrong: bool = False) -> None:
        self._tokenizer, self._wrong = tokenizer, wrong
        self._true = {normal(text) for task in TASKS for text in truths(task)}

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """A likelihood near one for what is right, and near none for the rest."""
        found = []
        for context, continuation in pairs:
            text = normal(self._tokenizer.decode([*context, *continuation]))
            right = (text in self._true) != self._wrong
            found.append((-1e-3 if right else -30.0, right))
        return found

    def write(self, requests: Sequence[tuple[Sequence[int], Options]]) -> list[str]:
        """Nothing is written."""
        return ["" for _ in requests]


def normal(text: str) -> str:
    """A text's words."""
    return " ".join(text.split()).lower()


def truths(task: str) -> list[str]:
    """Each question of a raw file with its right answer, as one text."""
    if task == "piqa":
        return [f"Question: {r['goal']} Answer: {r['sol2' if r['label'] else 'sol1']}" for r in raw("piqa_valid")]
    if task == "arc_easy":
        return [f"{r['query']} Answer: {r['choices'][r['gold']]}" for r in raw("arc_easy_test")]
    if task == "lambada_openai":
        return [r["text"] for r in raw("lambada_openai_test")]
    return [f"{r['ctx']} {r['endings'][r['label']]}" for r in raw("hellaswag_val")]
