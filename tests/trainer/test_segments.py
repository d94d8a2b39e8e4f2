"""Laws of the list of segments."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.callback.decisions import Decision
from groundup.core.errors import CheckpointError, ConfigError
from groundup.core.progress import Progress
from groundup.trainer import changes, segments
from groundup.trainer.changes import Turn
from groundup.trainer.course import Course


@dataclass
class Data:
    context: int = 8
    batch_tokens: int = 32
    skips: list[list[int]] = field(default_factory=list)


@dataclass
class Root:
    tokens: int = 1000
    data: Data = field(default_factory=Data)


def planned(turns: list[Turn], tokens: int) -> list[segments.Segment]:
    """The segments of a run of which nothing was decided on its way."""
    return Course(Root(), turns, tokens).segments()


RAMP = Turn(100, {"data.batch_tokens": 64}, why="ramp")


@given(
    st.lists(st.tuples(st.integers(1, 3000), st.sampled_from([8, 16, 32, 64, 80])), max_size=5),
    st.integers(1, 3000),
)
def test_segments_cover_the_run_without_gap_and_each_holds_one_config(
    wanted: list[tuple[int, int]], tokens: int
) -> None:
    plan = planned([Turn(at, {"data.batch_tokens": size}, why="change") for at, size in sorted(wanted)], tokens)
    assert plan[0].first == Progress()
    assert plan[-1].last.tokens >= tokens
    for before, after in pairwise(plan):
        assert before.last == after.first
    for segment in plan:
        size = changes.apply(Root(), segment.set).data.batch_tokens
        assert segment.last.tokens - segment.first.tokens == segment.steps * size
        assert segment.last.tokens - size < tokens
        assert segment.last.samples * 8 == segment.last.tokens


def test_a_change_begins_at_the_first_step_boundary_at_or_after_its_tokens() -> None:
    plan = planned([RAMP], 1000)
    assert plan[0].last == Progress(4, 16, 128)
    assert plan[1].set == {"data.batch_tokens": 64}
    assert segments.at(plan, Progress(3, 12, 96)) == 0
    assert segments.at(plan, plan[0].last) == 1
    assert segments.at(plan, plan[-1].last) == 2


def test_a_later_change_or_a_longer_run_leaves_the_hash_of_what_was_done() -> None:
    plan = planned([], 1000)
    longer = planned([Turn(1000, {"tokens": 2000}, why="extended")], 2000)
    assert segments.digest(plan, plan[-1].last) == segments.digest(longer, plan[-1].last)
    other = planned([RAMP], 1000)
    assert segments.digest(other, other[-1].last) != segments.digest(plan, plan[-1].last)


WRITTEN = Decision(1, 4, "change", "written", clock=Progress(4, 16, 128), changes=[{"set": {"data.batch_tokens": 16}}])
BACK = Decision(1, 9, "roll_back", "spiked", clock=Progress(2, 8, 64), skip=[8, 12])


def test_undoing_leaves_what_other_changes_set_and_what_was_never_set_cannot_be_undone() -> None:
    turns = [RAMP, Turn(200, {"data.skips": [[0, 4]]}, why="skip"), Turn(400, undo=("data.batch_tokens",), why="undo")]
    assert [segment.set for segment in planned(turns, 1000)][-1] == {"data.skips": [[0, 4]]}
    assert [segment.set for segment in planned([*turns, Turn(600, undo=("data",), why="all")], 1000)][-1] == {}
    with pytest.raises(ConfigError, match="nothing before has changed it"):
        planned([Turn(100, undo=("data",))], 1000)


def test_another_kind_forgets_the_options_of_the_one_before() -> None:
    keys = changes.turned({"optimizer.beta1": 0.8, "schedule.final": 0.5}, Turn(1, {"optimizer": "muon"}))
    assert changes.turned(keys, Turn(2, {"optimizer.rate": 0.1})) == {
        "schedule.final": 0.5,
        "optimizer": "muon",
        "optimizer.rate": 0.1,
    }


def test_what_is_written_in_the_run_folder_holds_over_the_plan_until_it_is_taken_out() -> None:
    course = Course(Root(), [RAMP, Turn(500, {"data.batch_tokens": 128}, why="more")], 1000)
    found = course.segments([WRITTEN])
    assert [(s.first.tokens, s.set["data.batch_tokens"]) for s in found[1:]] == [(128, 16), (512, 16)]
    assert "written" in found[1].reason
    gone = Decision(1, 20, "change", "gone", clock=Progress(20, 48, 384), changes=[])
    found = course.segments([WRITTEN, gone])
    assert [(s.first.tokens, s.set.get("data.batch_tokens")) for s in found] == [
        (0, None),
        (128, 16),
        (384, 64),
        (512, 128),
    ]
    later = replace(WRITTEN, changes=[{"tokens": 300, "set": {"data.batch_tokens": 8}}])
    assert [(s.first.tokens, s.set.get("data.batch_tokens")) for s in course.segments([later])] == [
        (0, None),
        (128, 64),
        (320, 8),
        (504, 8),
    ]


def test_a_run_that_goes_back_before_what_was_written_comes_to_it_again_and_keeps_its_measures() -> None:
    course = Course(Root(), [], 1000)
    found = course.segments([WRITTEN, BACK])
    assert [(s.first.tokens, s.set, s.planned) for s in found] == [
        (0, {}, True),
        (64, {"data.skips": [[8, 12]]}, False),
        (128, {"data.batch_tokens": 16, "data.skips": [[8, 12]]}, True),
    ]
    anew = Decision(2, 3, "change", "anew", clock=Progress(3, 12, 96), changes=[])
    assert [s.set for s in course.segments([WRITTEN, BACK, anew])][-1] == {"data.skips": [[8, 12]]}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40), st.sampled_from([16, 64, 80])), max_size=5))
def test_a_decision_leaves_the_hash_of_all_that_was_done_before_it(steps: list[tuple[bool, int, int]]) -> None:
    course, made = Course(Root(), [RAMP], 1000), list[Decision]()
    for back, step, size in steps:
        before = course.segments(made)
        segment = before[min(segments.at(before, Progress(step)), len(before) - 1)]
        each = (segment.last.samples - segment.first.samples) // segment.steps
        many = min(step, segment.last.steps) - segment.first.steps
        clock = segment.first.after(steps=many, samples=many * each, tokens=many * each * 8)
        wanted = [{"set": {"data.batch_tokens": size}}]
        made.append(
            Decision(1, step, "roll_back", "spiked", clock=clock, skip=[0, 1])
            if back
            else Decision(1, step, "change", "written", clock=clock, changes=wanted)
        )
        after = course.segments(made)
        assert segments.digest(after, clock) == segments.digest(before, clock)
        for one, two in pairwise(after):
            assert one.last == two.first
        assert after[-1].last.tokens >= 1000


def test_the_list_survives_being_written_and_read(tmp_path: Path) -> None:
    plan = planned([RAMP], 1000)
    segments.write(tmp_path, {"a": 1}, plan)
    assert segments.read(tmp_path) == ({"a": 1}, plan)


def test_a_damaged_list_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / segments.FILE).write_text('{"config": {}}\n{"first"')
    with pytest.raises(CheckpointError, match="cannot be read"):
        segments.read(tmp_path)


@pytest.mark.parametrize("key", ["model.width", "seed", "data.batch_tokns", "optimizer.rate"])
def test_a_key_that_cannot_change_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="changes"):
        changes.apply(Root(), {key: 3})


def test_applying_leaves_the_first_config_as_it_was() -> None:
    root = Root()
    changes.apply(root, {"data.batch_tokens": 64})
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
        ("objective", "masked", "cannot change in flight"),
        ("objective.permute", "no", "must be bool"),
        ("data.batch_tokens", 512.5, "must be int"),
        ("objective.sentinels", 50, "would give ids another meaning"),
    ],
)
def test_a_change_of_another_type_or_of_what_ids_mean_is_refused(key: str, value: object, what: str) -> None:
    root = Root()
    root.objective = Objective()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=re.escape(what)):
        changes.apply(root, {key: value})
    assert changes.apply(root, {"objective.clip": None}).objective.clip is None
    assert changes.apply(root, {"objective.share": 1}).objective.share == 1
