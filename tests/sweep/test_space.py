"""What is drawn from a space reaches the command line as it was drawn, and a grid is every point once."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from groundup.core.errors import ConfigError
from groundup.sweep.config import Parameter
from groundup.sweep.space import overrides, points, probes, text

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="$"), max_size=12)
CONDITIONAL = {
    "kind": Parameter(key="optimizer", choices=["muon", "sgd"]),
    "rate": Parameter(key="optimizer.rate", low=0.1, high=0.3, step=0.1, when={"kind": "muon"}),
    "depth": Parameter(key="model.layers", low=1, high=2, integer=True, when={"rate": [0.1, 0.3]}),
    "seed": Parameter(choices=[0, 1]),
}


@given(st.recursive(SCALARS | WORDS, lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=4))
def test_hydra_reads_every_value_back(value: Any) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={text(value)}"])
    assert override.value() == value
    assert repr(override.value()) == repr(value)


@pytest.mark.parametrize("word", ["null", "true", "1e-3", "10m", "nan", "it's", "a,b", "[1]", ""])
def test_a_string_that_reads_like_something_else_is_quoted(word: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={text(word)}"])
    assert override.value() == word


def test_a_grid_is_every_point_once_and_conditions_hold() -> None:
    found = points(CONDITIONAL)
    assert len({repr(point) for point in found}) == len(found) == (2 + 1 + 2 + 1) * 2
    for point in found:
        assert ("rate" in point) == (point["kind"] == "muon")
        assert ("depth" in point) == (point.get("rate") in (0.1, 0.3))


def test_numbers_of_a_grid_are_those_one_would_write() -> None:
    assert Parameter(low=0.1, high=0.7, step=0.2).values() == [0.1, 0.3, 0.5, 0.7]
    assert Parameter(low=2, high=7, step=2, integer=True).values() == [2, 4, 6]


@pytest.mark.parametrize("endless", [{"log": True}, {}])
def test_a_grid_without_end_is_refused(endless: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.space\.rate\.step"):
        points({"rate": Parameter(low=0.1, high=0.2, **endless)})


def test_overrides_set_the_key_of_each_parameter_in_order() -> None:
    assert overrides(CONDITIONAL, {"kind": "muon", "rate": 0.2, "seed": 1}) == [
        "optimizer=muon",
        "optimizer.rate=0.2",
        "seed=1",
    ]


def test_probes_try_both_ends_under_the_conditions_they_need() -> None:
    tried = [chosen for name, chosen in probes(CONDITIONAL) if name == "depth"]
    assert tried == [{"kind": "muon", "rate": 0.1, "depth": 1}, {"kind": "muon", "rate": 0.1, "depth": 2}]
