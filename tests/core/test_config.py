"""Laws of the component registry and of composing, checking and explaining configs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from groundup.core.config import MISSING, fingerprint, from_dict, group, groups, identity_of, option, schema, to_dict
from groundup.core.config.compose import instantiate
from groundup.core.config.explain import explain
from groundup.core.errors import ConfigError, nearest

group("fruit", "a group for these tests")


@schema("fruit", "apple")
class Apple:
    """A round one."""

    weight: float = option(1.5, "in grams", above=0, at_most=9)
    colour: str = option("red", "of the skin", choices=("red", "green"))
    seeds: int | None = option(None, "how many", at_least=1)
    label: str = option("a", "a sticker", identity=False)
    spots: list[int] = option([1, 2], "where")


@schema("fruit", "pear")
class Pear:
    """One that must be told its length."""

    length: int = option(MISSING, "in mm")

    def __post_init__(self) -> None:
        """Refuse an even length."""
        if self.length % 2 == 0:
            raise ConfigError(f"length={self.length}", "must be odd", "add one")


@schema("verb", "eat")
class Eat:
    """A root with a component."""

    fruit: Any = option(MISSING, "what")
    times: int = option(1, "how often", at_least=1)


def tree(**values: Any) -> DictConfig:
    node = OmegaConf.structured(Eat)
    return OmegaConf.merge(node, OmegaConf.create({"fruit": OmegaConf.structured(Apple)}), values)


def test_a_component_survives_being_written_and_read() -> None:
    apple = Apple(weight=3.0, seeds=4, spots=[7])
    assert from_dict("fruit", to_dict(apple)) == apple
    assert to_dict(apple)["kind"] == "apple"


def test_a_list_default_is_not_shared_between_instances() -> None:
    first = Apple()
    first.spots.append(9)
    assert Apple().spots == [1, 2]


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"weight": 0.0}, "weight=0.0"),
        ({"weight": 10.0}, "weight=10.0"),
        ({"weight": float("nan")}, "weight=nan"),
        ({"colour": "blue"}, "colour=blue"),
        ({"seeds": 0}, "seeds=0"),
        ({"kind": "pear"}, "kind=pear"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(values: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Apple(**values)
    assert caught.value.where == where
    assert "\n" not in str(caught.value)


def test_a_missing_value_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="length: needs a value"):
        Pear()


def test_identity_leaves_out_what_does_not_define_the_mathematics() -> None:
    assert fingerprint(identity_of(Apple(label="x"))) == fingerprint(identity_of(Apple(label="y")))
    assert fingerprint(identity_of(Apple(weight=2.0))) != fingerprint(identity_of(Apple()))


def test_two_components_of_one_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="registered twice"):

        @schema("fruit", "apple")
        class Other:
            """Another apple."""

            size: int = option(1, "x")


def test_a_composed_tree_becomes_its_dataclasses() -> None:
    made = instantiate(tree(times=3))
    assert made == Eat(fruit=Apple(), times=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fruit": {"wieght": 2}}, "fruit.wieght: is not an option of fruit (apple); did you mean weight?"),
        ({"tmes": 2}, "tmes: is not an option of eat.py; did you mean times?"),
        ({"fruit": {"weight": -1}}, "fruit.weight=-1.0: must be above 0"),
        ({"times": 0}, "times=0: must be at least 1"),
    ],
)
def test_an_error_names_the_dotted_key_and_the_nearest_name(values: dict[str, Any], message: str) -> None:
    node = OmegaConf.structured(Eat)
    node.fruit = OmegaConf.structured(Apple)
    OmegaConf.set_struct(node, False)
    with pytest.raises(ConfigError) as caught:
        from omegaconf import open_dict

        with open_dict(node), open_dict(node.fruit):
            for key, value in values.items():
                if isinstance(value, dict):
                    for name, item in value.items():
                        OmegaConf.update(node, f"{key}.{name}", item, force_add=True)
                else:
                    OmegaConf.update(node, key, value, force_add=True)
        instantiate(node)
    assert str(caught.value).startswith(message)


def test_a_hand_written_mapping_with_a_kind_is_typed() -> None:
    node = OmegaConf.structured(Eat)
    node.fruit = {"kind": "pear", "length": 3}
    assert instantiate(node).fruit == Pear(length=3)


def test_a_mapping_without_a_kind_is_refused() -> None:
    node = OmegaConf.structured(Eat)
    node.fruit = {"length": 3}
    with pytest.raises(ConfigError, match="names no kind"):
        instantiate(node)


@pytest.mark.parametrize("kind", ["aple", "zzz"])
def test_an_unknown_kind_of_a_saved_config_names_what_there_is(kind: str) -> None:
    with pytest.raises(ConfigError, match="apple"):
        from_dict("fruit", {"kind": kind})


def test_nearest_names_all_when_none_is_close() -> None:
    assert nearest("widht", ["width", "depth"]) == "did you mean width?"
    assert nearest("q", ["width", "depth"]) == "known: depth, width"


def test_help_shows_null_where_nothing_is_given(tmp_path: Path) -> None:
    page = explain("eat", Eat, tmp_path, ["--help", "fruit"])
    assert "seeds = null: how many" in page
    assert "length = required: in mm" in page


def test_many_presets_are_counted_in_the_overview_and_listed_where_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "fruit").mkdir()
    for number in range(40):
        (tmp_path / "fruit" / f"sort-{number:02}.yaml").touch()
    overview = explain("eat", Eat, tmp_path, ["--help"])
    assert "(40 presets: --help fruit)" in " ".join(overview.split())
    assert "sort-39" not in overview
    assert max(map(len, overview.splitlines())) <= 120
    assert "sort-39" in explain("eat", Eat, tmp_path, ["--help", "fruit"])


def test_every_option_of_every_group_is_documented() -> None:
    for entry in groups().values():
        assert entry.name in ("verb", "change") or entry.doc or not entry.kinds, entry.name
        for cls in entry.kinds.values():
            for field in dataclasses.fields(cls):
                assert field.metadata.get("doc"), f"{entry.name}: {cls.__name__}.{field.name} has no doc"
