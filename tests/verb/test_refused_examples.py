"""Laws of examples that cannot be used: each is told with its file, line and remedy, and nothing is left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from labelled import own_folder, write  # noqa: F401  # the folder is a fixture

import groundup.verb.train  # noqa: F401  # it registers the groups
from groundup.core.errors import UserError
from groundup.data.config import Examples
from groundup.verb import examples

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
