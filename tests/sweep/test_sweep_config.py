"""A space is refused where it makes no sense, before anything is drawn from it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from groundup.core.errors import ConfigError
from groundup.sweep.config import Median, Parameter, Prune, Search
from groundup.sweep.space import applies


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give low and high, or choices"),
        ({"low": 1.0}, "give low and high, or choices"),
        ({"low": 2.0, "high": 2.0}, "low=2: is not below high=2"),
        ({"low": 3.0, "high": 1.0}, "low=3: is not below high=1"),
        ({"low": 1.0, "high": float("inf")}, "finite"),
        ({"low": 0.0, "high": 1.0, "log": True}, "low=0: has no logarithm"),
        ({"low": 1.0, "high": 2.0, "log": True, "step": 0.1}, "step=0.1"),
        ({"low": 1.0, "high": 2.5, "integer": True}, "high=2.5: is not whole"),
        ({"low": 1.0, "high": 2.0, "step": 0.0}, "step=0.0"),
        ({"choices": [1, 2], "low": 1.0}, "low=1.0: stands beside choices"),
        ({"choices": [1, 2], "log": True}, "neither log nor integer"),
        ({"choices": [1, 2, 1]}, "hold a value twice"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Parameter(**options)
    assert says in str(caught.value)


KIND = Parameter(key="optimizer", choices=["muon", "adamw"])


def rate(**when: Any) -> Parameter:
    return Parameter(key="optimizer.rate", low=0.1, high=0.2, when=when)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"rate": rate(kindd="muon"), "kind": KIND}, "space.rate.when.kindd: is no parameter stated before"),
        ({"kind": KIND, "rate": rate(kin="muon")}, "did you mean kind?"),
        ({"kind": KIND, "rate": rate(kind="lion")}, "space.rate.when.kind=lion: is not among its choices"),
        ({"rate": rate(), "again": rate()}, "space.again: sets optimizer.rate, as rate does"),
        ({"kind": KIND, "rate": rate(kind="muon"), "again": rate(kind=["adamw", "muon"])}, "space.again"),
    ],
)
def test_conditions_that_cannot_hold_or_overlap_are_refused(space: dict[str, Parameter], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Search(space=space)
    assert says in str(caught.value)


def test_one_option_may_have_a_range_under_each_condition() -> None:
    made = Search(space={"kind": KIND, "muon": rate(kind="muon"), "adamw": rate(kind="adamw")})
    for kind in ("muon", "adamw"):
        assert [name for name in ("muon", "adamw") if applies(made.space[name], {"kind": kind})] == [kind]


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b"])
def test_a_study_is_named_like_a_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a folder"):
        Search(study=name)


def test_a_pruner_must_be_told_how_often_to_look() -> None:
    with pytest.raises(ConfigError, match="every_tokens"):
        Median()


def test_pruning_is_no_callback_for_a_command_line() -> None:
    with pytest.raises(ConfigError, match=r"choose sweep\.pruner"):
        Prune().build()


def test_reading_the_options_imports_neither_torch_nor_optuna() -> None:
    program = (
        "import sys, groundup.verb.train, hydra_plugins.groundup_sweeper\n"
        "print([name for name in ('torch', 'lightning', 'optuna', 'matplotlib') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
