"""A study has each of its trials once, whoever draws them, and whatever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from groundup.core.config import to_dict
from groundup.core.errors import ConfigError, DataError, StorageError
from groundup.sweep.config import Parameter, Search
from groundup.sweep.study import JOURNAL, Ending, Study, Taken

SPACE = {
    "kind": Parameter(key="optimizer", choices=["muon", "sgd"]),
    "rate": Parameter(key="optimizer.rate", low=1e-3, high=1.0, log=True, when={"kind": "muon"}),
    "betas": Parameter(key="optimizer.betas", choices=[[0.9, 0.95], [0.8, 0.9]]),
}
WIDER = replace(SPACE["rate"], high=2.0)
WORKER = """
import sys, time
from pathlib import Path
from groundup.sweep.config import Parameter, Search
from groundup.sweep.study import Ending, Study
space = {"rate": Parameter(low=0.1, high=1.0)}
study = Study(Path(sys.argv[1]), Search(study="shared", trials=int(sys.argv[2]), sampler="random", space=space), {})
while taken := study.next():
    print(taken.number, taken.chosen, flush=True)
    if sys.argv[3:] == ["hold"]:
        time.sleep(600)
    study.end(taken, Ending("complete", value=taken.chosen["rate"]))
"""


def searching(**options: Any) -> Search:
    return Search(**{"study": "shared", "trials": 6, "space": SPACE, **options})


def finish(study: Study, value: Callable[[Taken], float] = lambda taken: float(taken.number)) -> list[Taken]:
    """Run a study to its end, each trial with a value; the trials in their order."""
    done = []
    while taken := study.next():
        study.end(taken, Ending("complete", value=value(taken)))
        done.append(taken)
    assert study.ended()
    return done


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_draws_the_same_trials_also_after_a_stop(tmp_path: Path, sampler: str) -> None:
    options = {"sampler": sampler, "random_trials": 3}
    whole = finish(Study(tmp_path / "a", searching(**options), {}))
    finish(Study(tmp_path / "b", searching(**options, trials=4), {}))
    finish(Study(tmp_path / "b", searching(**options), {}))
    again = Study(tmp_path / "b", searching(**options), {}).rows()
    assert [row.chosen for row in again] == [taken.chosen for taken in whole]
    other = finish(Study(tmp_path / "c", searching(**options, seed=1), {}))
    assert [taken.chosen for taken in other] != [taken.chosen for taken in whole]


def test_a_parameter_is_drawn_only_where_its_condition_holds(tmp_path: Path) -> None:
    for taken in finish(Study(tmp_path, searching(trials=12), {})):
        assert ("rate" in taken.chosen) == (taken.chosen["kind"] == "muon")
        assert taken.chosen["betas"] in SPACE["betas"].choices


def test_a_grid_ends_with_every_point(tmp_path: Path) -> None:
    space = {"kind": SPACE["kind"], "betas": SPACE["betas"]}
    done = finish(Study(tmp_path, searching(sampler="grid", trials=None, space=space), {}))
    assert len({repr(taken.chosen) for taken in done}) == len(done) == 4


def test_tpe_finds_its_way_to_the_better_half(tmp_path: Path) -> None:
    space = {"rate": Parameter(low=0.0, high=1.0)}
    study = Study(tmp_path, searching(trials=30, random_trials=8, space=space), {})
    done = finish(study, lambda taken: abs(taken.chosen["rate"] - 0.8))
    late = [abs(taken.chosen["rate"] - 0.8) for taken in done[15:]]
    assert sorted(late)[len(late) // 2] < 0.1


def test_a_trial_that_somebody_runs_is_not_given_to_another(tmp_path: Path) -> None:
    one, other = (Study(tmp_path, searching(trials=2), {}) for _ in range(2))
    first, second = one.next(), other.next()
    assert first and second and {first.number, second.number} == {0, 1}
    assert one.next() is None
    assert not one.ended()
    one.end(first, Ending("failed", reason="out of luck"))
    other.end(second, Ending("complete", value=1.0))
    assert one.ended() and other.ended()
    assert [(row.state, row.reason) for row in one.rows()] == [("failed", "out of luck"), ("complete", "")]


def test_a_killed_holders_trial_is_taken_up_with_the_parameters_it_had(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path), "2", "hold"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    search = searching(trials=2, sampler="random", space={"rate": Parameter(low=0.1, high=1.0)})
    study = Study(tmp_path, search, {})
    assert [row.state for row in study.rows()] == ["running"]
    taken = study.next()
    assert taken is not None
    assert f"{taken.number} {taken.chosen}\n" == said
    study.end(taken, Ending("complete", value=1.0))
    assert [row.number for row in study.rows()] == [0]


def test_a_trial_whose_process_outlives_its_searcher_is_left_to_it(tmp_path: Path) -> None:
    study = Study(tmp_path, searching(trials=1), {})
    taken = study.next()
    assert taken is not None
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(wait, stdin=subprocess.PIPE, pass_fds=(taken.lock,)) as child:
        os.close(taken.lock)  # as the end of the searcher would
        assert study.next() is None
        child.communicate(b"")
    again = study.next()
    assert again is not None
    assert (again.number, again.chosen) == (taken.number, taken.chosen)


def test_a_trial_killed_while_it_was_drawn_is_drawn_to_its_end(tmp_path: Path) -> None:
    whole = finish(Study(tmp_path / "a", searching(sampler="random", trials=1), {}))
    study = Study(tmp_path / "b", searching(sampler="random", trials=1), {})
    study.optuna.ask()
    taken = study.next()
    assert taken is not None
    assert taken.number == 0
    assert taken.chosen == whole[0].chosen


def test_processes_that_share_a_study_end_with_its_number_of_trials(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path), "15"]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [line for worker in workers for line in worker.communicate()[0].splitlines()]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert sorted(int(line.split()[0]) for line in said) == list(range(15))
    search = searching(trials=15, sampler="random", space={"rate": Parameter(low=0.1, high=1.0)})
    assert [row.state for row in Study(tmp_path, search, {}).rows()] == ["complete"] * 15


def test_a_line_that_a_kill_left_half_is_dropped(tmp_path: Path) -> None:
    finish(Study(tmp_path, searching(trials=2), {}))
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":4,"worker')
    assert len(finish(Study(tmp_path, searching(trials=4), {}))) == 2
    assert len(Study(tmp_path, searching(), {}).rows()) == 4


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"space": {**SPACE, "rate": WIDER}}, "another space: rate.high is 1.0 there and 2.0 here"),
        ({"space": {"kind": SPACE["kind"]}}, "another space: rate is stated there and absent here"),
        ({"sampler": "random"}, "another sampler: tpe there and random here"),
        ({"seed": 7}, "another seed: 0 there and 7 here"),
    ],
)
def test_a_study_made_with_another_space_is_refused(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    Study(tmp_path, searching(), {})
    before = (tmp_path / JOURNAL).read_bytes()
    with pytest.raises(ConfigError, match=says) as caught:
        Study(tmp_path, searching(**changed), {})
    assert "sweep.study=shared" in str(caught.value)
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_a_study_of_another_config_is_refused_and_its_key_named(tmp_path: Path) -> None:
    base = {"model": to_dict(Parameter(choices=[1])), "tokens": 5}
    Study(tmp_path, searching(), base)
    with pytest.raises(ConfigError, match="another config: tokens is 5 there and 6 here"):
        Study(tmp_path, searching(), {**base, "tokens": 6})


def test_the_number_of_trials_may_grow(tmp_path: Path) -> None:
    finish(Study(tmp_path, searching(trials=2), {}))
    assert [taken.number for taken in finish(Study(tmp_path, searching(trials=3), {}))] == [2]
    assert finish(Study(tmp_path, searching(trials=1), {})) == []


def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    finish(Study(tmp_path, searching(trials=1), {}))
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_bytes(b"".join([lines[0], b"{nonsense\n", *lines[1:]]))
    with pytest.raises(DataError, match=r"study\.journal: is damaged"):
        Study(tmp_path, searching(), {})


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        Study(tmp_path / "file" / "study", searching(), {})
