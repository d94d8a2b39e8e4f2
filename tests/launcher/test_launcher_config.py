"""The group `launcher`: none by default, none that changes a run's identity, and none twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from groundup.core import ranks
from groundup.core.config import compose, groups, identity_of
from groundup.core.errors import ConfigError
from groundup.launcher import config
from groundup.verb import train as verb

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ranks.NAMES, ranks.LAUNCHED, "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def composed(*overrides: str) -> verb.Train:
    made: verb.Train = compose.composed(CONF, "train", *overrides)
    return made


def test_without_a_word_this_process_trains_alone() -> None:
    launcher = composed().launcher
    assert (launcher.kind, launcher.starts(), launcher.world(), launcher.build()) == ("none", False, 1, None)


def test_what_starts_the_processes_is_no_part_of_a_runs_identity() -> None:
    several = composed("launcher=local", "launcher.devices=4")
    assert identity_of(several) == identity_of(composed())


def test_the_devices_of_all_nodes_are_counted_before_a_process_is_started() -> None:
    assert composed("launcher=local", "launcher.devices=4").launcher.world() == 4
    assert composed("launcher=slurm", "launcher.devices=8", "launcher.nodes=3").launcher.world() == 24


def test_local_means_every_gpu_unless_told_otherwise() -> None:
    every = config.Local()
    every.settle(8)
    assert every.world() == 8
    some = config.Local(devices=2)
    some.settle(8)
    assert some.world() == 2
    with pytest.raises(ConfigError, match="devices=9: this machine has 8"):
        config.Local(devices=9).settle(8)
    with pytest.raises(ConfigError, match="devices=null: there is no GPU to count"):
        config.Local().settle(None)


@pytest.mark.parametrize("launcher", [config.Local(devices=4), config.Slurm(devices=4)], ids=lambda made: made.kind)
@pytest.mark.parametrize("variables", [{ranks.LAUNCHED: "x"}, {"RANK": "0", "WORLD_SIZE": "1"}], ids=str)
def test_a_process_that_was_launched_launches_no_other(
    launcher: config.Local | config.Slurm, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    launcher.settle(None)
    assert (launcher.starts(), launcher.world(), launcher.build()) == (False, 1, None)


def test_one_process_cannot_be_several() -> None:
    with pytest.raises(ConfigError, match="strategy=single: trains in one process, not in 4; use strategy=ddp"):
        composed("strategy=single").strategy.check(4, None, None)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("local", {"devices": 0}),
        ("local", {"grace_seconds": 0.0}),
        ("local", {"last_lines": -1}),
        ("local", {"restarts": -1}),
        ("none", {"hang_seconds": 0.0}),
        ("slurm", {"nodes": 0}),
        ("slurm", {"hours": 0.0}),
        ("slurm", {"requeues": -1}),
        ("slurm", {"notice_seconds": 7200, "hours": 1.0}),
        ("slurm", {"extra": {"output": "elsewhere"}}),
        ("slurm", {"extra": {"open_mode": "truncate"}}),
    ],
)
def test_a_value_that_cannot_be_is_refused(kind: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        groups()["launcher"].kinds[kind](**options)


def test_a_search_does_not_hand_its_trials_over() -> None:
    from groundup.sweep.check import check
    from groundup.sweep.config import Parameter, Search

    class Program:
        def compose(self, given: list[str]) -> verb.Train:
            return composed("launcher=slurm", *given)

    with pytest.raises(ConfigError, match="launcher=slurm: hands a run over and does not wait for it"):
        check(Search(space={"seed": Parameter(low=0, high=1)}), Program())


def test_reading_the_options_imports_neither_torch_nor_what_submits() -> None:
    code = "import sys, groundup.launcher.config as c; c.Slurm(); print({'torch', 'submitit'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
