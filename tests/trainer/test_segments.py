"""Laws of the list of segments."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.core.errors import CheckpointError, ConfigError
from groundup.core.progress import Progress
from groundup.trainer import segments


@dataclass
class Data:
    context: int = 8
    batch_tokens: int = 32


@dataclass
class Root:
    tokens: int = 1000
    data: Data = field(default_factory=Data)


Changes = list[tuple[int, dict[str, object], str]]


@given(
    st.lists(st.tuples(st.integers(1, 3000), st.sampled_from([8, 16, 32, 64, 80])), max_size=5),
    st.integers(1, 3000),
)
def test_segments_cover_the_run_without_gap_and_each_holds_one_config(
    wanted: list[tuple[int, int]], tokens: int
) -> None:
    changes: Changes = [(at, {"data.batch_tokens": size}, "change") for at, size in sorted(wanted)]
    plan = segments.plan(Root(), changes, tokens)
    assert plan[0].first == Progress()
    assert plan[-1].last.tokens >= tokens
    for before, after in pairwise(plan):
        assert before.last == after.first
    for segment in plan:
        size = segments.apply(Root(), segment.set).data.batch_tokens
        assert segment.last.tokens - segment.first.tokens == segment.steps * size
        assert segment.last.tokens - size < tokens
        assert segment.last.samples * 8 == segment.last.tokens


def test_a_change_begins_at_the_first_step_boundary_at_or_after_its_tokens() -> None:
    plan = segments.plan(Root(), [(100, {"data.batch_tokens": 64}, "ramp")], 1000)
    assert plan[0].last == Progress(4, 16, 128)
    assert plan[1].set == {"data.batch_tokens": 64}
    assert segments.at(plan, Progress(3, 12, 96)) == 0
    assert segments.at(plan, plan[0].last) == 1
    assert segments.at(plan, plan[-1].last) == 2


def test_a_later_change_or_a_longer_run_leaves_the_hash_of_what_was_done() -> None:
    plan = segments.plan(Root(), [], 1000)
    longer = segments.plan(Root(), [(1000, {"tokens": 2000}, "extended")], 2000)
    assert segments.digest(plan, plan[-1].last) == segments.digest(longer, plan[-1].last)
    other = segments.plan(Root(), [(100, {"data.batch_tokens": 64}, "ramp")], 1000)
    assert segments.digest(other, other[-1].last) != segments.digest(plan, plan[-1].last)


def test_the_list_survives_being_written_and_read(tmp_path: Path) -> None:
    plan = segments.plan(Root(), [(100, {"data.batch_tokens": 64}, "ramp")], 1000)
    segments.write(tmp_path, {"a": 1}, plan)
    assert segments.read(tmp_path) == ({"a": 1}, plan)


def test_a_damaged_list_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / segments.FILE).write_text('{"config": {}}\n{"first"')
    with pytest.raises(CheckpointError, match="cannot be read"):
        segments.read(tmp_path)


@pytest.mark.parametrize("key", ["model.width", "seed", "data.batch_tokns", "optimizer.rate"])
def test_a_key_that_cannot_change_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="changes"):
        segments.apply(Root(), {key: 3})


def test_applying_leaves_the_first_config_as_it_was() -> None:
    root = Root()
    segments.apply(root, {"data.batch_tokens": 64})
    assert root.data.batch_tokens == 32


@dataclass
class Objective:
    share: float = 0.15
    clip: float | None = 1.0
    permute: bool = True
    sentinels: int = 100


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("objective.clip", "a", "must be float | null"),
        ("objective.share", None, "must be float"),
        ("objective.share", True, "must be float"),
        ("objective.permute", "no", "must be bool"),
        ("data.batch_tokens", 512.5, "must be int"),
        ("objective.sentinels", 50, "would give ids another meaning"),
    ],
)
def test_a_change_of_another_type_or_of_what_ids_mean_is_refused(key: str, value: object, what: str) -> None:
    root = Root()
    root.objective = Objective()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=re.escape(what)):
        segments.apply(root, {key: value})
    assert segments.apply(root, {"objective.clip": None}).objective.clip is None
    assert segments.apply(root, {"objective.share": 1}).objective.share == 1
