"""Laws of a run's environment: what changed is said or refused before anything is written, and nothing else is."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from groundup.core.config import from_dict
from groundup.core.errors import CheckpointError, ConfigError
from groundup.trainer import config as _  # noqa: F401  # registers the kinds
from groundup.trainer import environment


@pytest.fixture
def row():
    return {"step": 0, "data": "d", "seed": 0, "environment": environment.gather("cpu")}


def later(row, step=5, **changed):
    """A start further on, of whose environment something is otherwise: field="name=value"."""
    made = {**copy.deepcopy(row), "step": step}
    for field, said in changed.items():
        name, value = said.split("=")
        made["environment"][field][name] = value
    return made


def keep(folder, row, write=True, **rules):
    said: list[str] = []
    environment.keep(folder, row, rules, said.append, write)
    return said


def test_it_names_the_code_the_packages_and_the_processor(row):
    found = row["environment"]
    assert found["packages"]["torch"] == torch.__version__
    assert len(found["code"]["digest"]) == 16
    assert int(found["hardware"]["cores"]) > 0


def test_a_start_in_the_same_environment_says_and_writes_nothing_more(tmp_path, row):
    assert keep(tmp_path, row) == []
    assert keep(tmp_path, later(row)) == []
    assert environment.rows(tmp_path) == [row]


def test_what_differs_is_told_and_kept(tmp_path, row):
    keep(tmp_path, row)
    moved = later(row, packages="torch=9.9", hardware="cores=1000")
    lines = keep(tmp_path, moved)
    assert lines[0] == f"other packages than up to step 5: torch {torch.__version__} -> 9.9"
    assert lines[1].startswith("other hardware than up to step 5: cores ")
    assert environment.rows(tmp_path) == [row, moved]
    assert keep(tmp_path, later(moved, step=9)) == []


def test_what_is_to_be_refused_is_and_nothing_is_written(tmp_path, row):
    keep(tmp_path, row)
    with pytest.raises(CheckpointError, match=r"other packages: torch .* -> 9\.9; .*trainer\.environment\.packages"):
        keep(tmp_path, later(row, packages="torch=9.9"), packages="refuse")
    assert environment.rows(tmp_path) == [row]


def test_what_is_to_be_ignored_is_kept_without_a_word(tmp_path, row):
    keep(tmp_path, row)
    assert keep(tmp_path, later(row, packages="torch=9.9"), packages="ignore") == []
    assert len(environment.rows(tmp_path)) == 2


def test_a_rank_that_does_not_write_refuses_like_the_one_that_does(tmp_path, row):
    keep(tmp_path, row)
    with pytest.raises(CheckpointError):
        keep(tmp_path, later(row, packages="torch=9.9"), write=False, packages="refuse")
    keep(tmp_path, later(row, packages="torch=9.9"), write=False)
    assert environment.rows(tmp_path) == [row]


def test_many_differences_are_told_in_few_words():
    found = {f"p{number}": ("1", "2") for number in range(9)}
    assert environment.told(found) == "p0 1 -> 2, p1 1 -> 2, p2 1 -> 2, p3 1 -> 2 and 5 more"


def test_a_package_that_is_gone_or_new_is_a_difference():
    before, now = {"packages": {"a": "1", "b": "1"}}, {"packages": {"b": "1", "c": "2"}}
    assert environment.differences(before, now) == {"packages": {"a": ("1", "absent"), "c": ("absent", "2")}}


def test_damaged_rows_are_named(tmp_path):
    (tmp_path / environment.FILE).write_text(json.dumps({"step": 0}) + "\n{")
    with pytest.raises(CheckpointError, match=r"environment\.jsonl: cannot be read"):
        environment.rows(tmp_path)


@pytest.mark.parametrize(("said", "told"), [({"cod": "warn"}, "did you mean code"), ({"code": "shout"}, "choose warn")])
def test_rules_that_are_none_are_refused(said, told):
    with pytest.raises(ConfigError, match=told):
        from_dict("trainer", {"kind": "standard", "environment": said})
