"""Mistakes in a user's own data and task files are told in one line: which file, which line, and what goes there."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundup.core.errors import ConfigError, DataError
from groundup.evaluation import rows, task_file
from groundup.evaluation.config import Evaluation
from groundup.evaluation.scorer import Scorer
from groundup.evaluation.suite import Suite
from groundup.tokenizer.byte import Bytes

GOOD = '{"question": "a", "answer": "A"}\n'
TASK = (
    "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: ROWS}}\noutput_type: loglikelihood\n"
    'test_split: test\ndoc_to_text: "{{question}}"\ndoc_to_target: " {{answer}}"\n'
    "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
)


@pytest.fixture
def failed(tmp_path: Path, tokenizer: Bytes, build: Callable[..., Any]) -> Callable[..., str]:
    """Why a task fails on a file of rows."""

    def ask(content: str, yaml: str = TASK, name: str = "rows.jsonl") -> str:
        (tmp_path / name).write_text(content)
        (tmp_path / "mine.yaml").write_text(yaml.replace("ROWS", str(tmp_path / name)))
        asked = Suite(Evaluation(tasks=[str(tmp_path / "mine.yaml")]), tokenizer, dict)
        (result,) = asked.run(Scorer(build(), tokenizer, 4096), "fp32")
        why = str(result["error"])
        assert "\n" not in why
        return why.replace(str(tmp_path), "")

    return ask


def test_a_task_names_the_row_it_failed_at(failed: Callable[..., str]) -> None:
    assert failed(GOOD + '{"question": \n').startswith("/rows.jsonl:2: is no JSON (Expecting value at column ")
    assert failed('{"answer": "A"}\n').startswith("/rows.jsonl:1: has no field question (UndefinedError: ")
    assert failed("question,answer\na,A\nb,B,C\n", TASK.replace("json\n", "csv\n"), "rows.csv").startswith(
        "/rows.csv:3: has 3 cells, and the header 2; "
    )
    choices = TASK.replace("loglikelihood", "multiple_choice").replace('" {{answer}}"', '"{{letters.index(answer)}}"')
    choices += "doc_to_choice: letters\n"
    listed = [{"question": "a", "letters": ["A", "B"], "answer": answer} for answer in ("A", "7")]
    assert failed("".join(json.dumps(row) + "\n" for row in listed), choices).startswith(
        "/rows.jsonl:2: has '7' as answer (ValueError: '7' is not in list)"
    )


def test_a_split_that_the_data_has_not_is_named(failed: Callable[..., str]) -> None:
    why = failed(GOOD, TASK.replace("{test: ROWS}", "ROWS"))
    assert why.startswith("its data has no split test; ") and "{data_files: {test: FILE}}" in why


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("a.jsonl", GOOD + "[1]\n", ValueError("x"), "a.jsonl:2: is a list; each row is an object"),
        ("a.jsonl", "\n" + GOOD + '{"answer": "B"}\n', KeyError("question"), "a.jsonl:3: has no field question"),
        ("a.jsonl", GOOD.replace("A", "7"), KeyError("7"), "a.jsonl:1: has '7' as answer (KeyError: '7')"),
        (
            "a.jsonl",
            GOOD + GOOD.replace('"A"', "7"),
            TypeError("x"),
            "a.jsonl:2: has a number as answer, and the first",
        ),
        ("a.jsonl", GOOD + '{"question": "b"}\n', TypeError("x"), "a.jsonl:2: has nothing as answer, and the first"),
        ("a.json", '[{"a": 1}, {"b": 2}]', KeyError("a"), "a.json, row 2: has no field a"),
        ("a.json", '[{"a": 1},\n{"b": 2]', ValueError("x"), "a.json:2: is no JSON"),
        ("a.csv", "a,b\n1,2\n3\n", TypeError("x"), "a.csv:3: has nothing as b, and the first row a text"),
        ("a.jsonl", b'{"a": "b"}\n{"a": "\xff"}\n', ValueError("x"), "a.jsonl:2: is no UTF-8"),
        ("a.jsonl.gz", b"no gzip", ValueError("x"), "a.jsonl.gz: cannot be read"),
        ("a.parquet", b"no parquet", ValueError("x"), "a.parquet: is no Parquet file"),
    ],
)
def test_a_bad_row_is_found(tmp_path: Path, name: str, content: str | bytes, error: Exception, says: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = rows.blamed(error, [tmp_path / name])
    assert isinstance(found, DataError)
    assert says in str(found)


def test_good_rows_are_not_blamed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((GOOD + "\n" + GOOD).encode()))
    (tmp_path / "b.csv").write_text('question,answer\n"a, b",A\n')
    paths = [tmp_path / "a.jsonl.gz", tmp_path / "b.csv"]
    assert rows.blamed(RuntimeError("another matter"), paths) is None
    given = {"test": [str(paths[0])], "train": str(paths[1])}
    assert rows.files([{"dataset_kwargs": {"data_files": given}}, {}]) == paths
    assert rows.files([{"dataset_kwargs": {"data_files": given, "sep": ";"}}]) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (TASK + "doc_to_choice: {{letters}}\n", r"mine\.yaml:9: is no YAML .*quote texts"),
        ("task: [mine\n", r"mine\.yaml:\d+: is no YAML"),
        ("- task\n", r"mine\.yaml: Expected YAML dict"),
        ("dataset_path: json\n", r"mine\.yaml: names no task; give it task: NAME"),
        (
            TASK + "doc_to_txt: a\n",
            r"mine\.yaml: has the key doc_to_txt, which no task has; did you mean doc_to_text\?",
        ),
        ("task: mine\ntest_split: test\n", r"mine\.yaml: names no data; give dataset_path: json"),
        ("task: mine\ninclude: nothing.yaml\n", r"mine\.yaml: needs .*nothing\.yaml \(No such file"),
    ],
)
def test_a_bad_task_file_is_refused_before_anything_is_asked(
    tmp_path: Path, tokenizer: Bytes, content: str, says: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=says) as caught:
        Suite(Evaluation(tasks=[str(path)]), tokenizer, dict)
    assert "\n" not in str(caught.value)


def test_a_bad_task_file_is_refused_by_its_name_too(tmp_path: Path, tokenizer: Bytes) -> None:
    def named() -> Suite:
        return Suite(Evaluation(tasks=["mine"], include=[str(tmp_path)]), tokenizer, dict)

    (tmp_path / "mine.yaml").write_text(TASK)
    assert named().names == ["mine"]
    (tmp_path / "mine.yaml").write_text(TASK + "doc_to_txt: a\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: has the key doc_to_txt"):
        named()


def test_a_good_task_file_is_good(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(TASK)
    (tmp_path / "mine.yaml").write_text("include: base.yaml\ntask: mine_too\ntag: mine_all\n")
    (tmp_path / "all.yaml").write_text("group: all_mine\ntask: [mine_too]\naggregate_metric_list: []\n")
    for name in ("base", "mine", "all"):
        task_file.check(tmp_path / f"{name}.yaml")
