"""Laws of a process's place among others: torchrun's variables, those of srun, and what contradicts itself."""

from __future__ import annotations

import pytest

from groundup.core import ranks, slurm
from groundup.core.errors import ConfigError

VARIABLES = (*ranks.NAMES, ranks.LAUNCHED, "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_TASKS")
VARIABLES += ("SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NTASKS")


@pytest.fixture
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def given(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return given


def srun(rank, local, node, **changes):
    """The variables of a task of 5 on nodes of 2, 2 and 1, as `man srun` describes them."""
    step = {
        "SLURM_PROCID": rank,
        "SLURM_LOCALID": local,
        "SLURM_NODEID": node,
        "SLURM_STEP_NUM_TASKS": 5,
        "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
        "SLURM_STEP_NODELIST": "gpu[07-08,11]",
        "SLURM_JOB_ID": 4711,
        "SLURM_STEP_ID": 0,
    }
    return step | changes


def place():
    return ranks.rank(), ranks.world(), ranks.local_rank(), ranks.local_world()


def test_a_process_that_nothing_launched_is_alone(environment):
    assert place() == (0, 1, 0, 1)
    assert not ranks.launched()


def test_torchruns_variables_are_read(environment):
    environment(RANK=3, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=2, MASTER_ADDR="b", MASTER_PORT=29500)
    assert place() == (3, 8, 1, 2)
    assert ranks.meeting_place() == ("b", 29500)
    assert ranks.launched()


def test_the_tasks_of_srun_find_each_other_without_torchrun(environment):
    told = []
    for task in ((0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1), (4, 0, 2)):
        environment(**srun(*task))
        told.append((place(), ranks.meeting_place()))
    assert [here for here, _ in told] == [(0, 5, 0, 2), (1, 5, 1, 2), (2, 5, 0, 2), (3, 5, 1, 2), (4, 5, 0, 1)]
    ((address, port),) = {there for _, there in told}
    assert address == "gpu07"
    assert 20_000 <= port < 30_000
    assert ranks.launched()


def test_torchrun_within_a_step_of_slurm_is_what_counts(environment):
    environment(**srun(1, 0, 1, SLURM_STEP_NUM_TASKS=2, SLURM_STEP_TASKS_PER_NODE="1(x2)"))
    environment(RANK=5, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=4, MASTER_ADDR="b", MASTER_PORT=29500)
    assert place() == (5, 8, 1, 4)


def test_a_shell_inside_a_job_is_one_process_however_many_tasks_were_asked_for(environment):
    environment(SLURM_JOB_ID=4711, SLURM_NTASKS=8, SLURM_PROCID=0, SLURM_LOCALID=0, SLURM_NODEID=0)  # a batch script
    assert place() == (0, 1, 0, 1)
    environment(SLURM_STEP_NUM_TASKS=1, SLURM_STEP_TASKS_PER_NODE="1", SLURM_STEP_ID=4294967290)  # an interactive one
    assert place() == (0, 1, 0, 1)
    assert not ranks.launched()


def test_one_node_needs_no_name_and_steps_have_ports_of_their_own(environment):
    environment(**srun(0, 0, 0, SLURM_STEP_NUM_TASKS=2, SLURM_STEP_TASKS_PER_NODE="2", SLURM_STEP_NODELIST="a"))
    assert ranks.meeting_place()[0] == "127.0.0.1"
    assert len({slurm.port("4711", str(step)) for step in range(50)}) > 45


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("a", "a"),
        ("a,b", "a"),
        ("gpu[07-08,11]", "gpu07"),
        ("gpu[3,5-9],login1", "gpu3"),
        ("n[001-100]-ib", "n001-ib"),
        ("node-12", "node-12"),
        ("p4-st-8xl-[1-2]", "p4-st-8xl-1"),
    ],
)
def test_the_first_host_of_a_node_list(nodes, first):
    assert slurm.first_host(nodes) == first


@pytest.mark.parametrize(
    ("text", "tasks"), [("2", [2]), ("2(x3)", [2, 2, 2]), ("2(x2),1", [2, 2, 1]), ("8,4(x2),1", [8, 4, 4, 1]), ("", [])]
)
def test_tasks_per_node_are_written_out(text, tasks):
    assert slurm.tasks_per_node(text) == tasks


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"RANK": 1}, "RANK=1: is not below WORLD_SIZE=1"),
        ({"RANK": 2, "WORLD_SIZE": 2}, "RANK=2: is not below WORLD_SIZE=2"),
        ({"RANK": "x", "WORLD_SIZE": 2}, "RANK=x: must be a whole number"),
        ({"WORLD_SIZE": 0}, "WORLD_SIZE=0: must be a whole number of at least 1"),
        ({"WORLD_SIZE": 2}, "RANK: is unset though WORLD_SIZE=2"),
        ({"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0}, "MASTER_ADDR: is unset though WORLD_SIZE=2"),
        (
            {"WORLD_SIZE": 4, "RANK": 0, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "a", "MASTER_PORT": 1},
            "LOCAL_RANK=1 .* LOCAL_RANK at most RANK=0",
        ),
        (
            {"WORLD_SIZE": 4, "RANK": 3, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 8, "MASTER_ADDR": "a", "MASTER_PORT": 1},
            "LOCAL_WORLD_SIZE=8: must be above LOCAL_RANK=1 and at most WORLD_SIZE=4",
        ),
        (
            {
                "WORLD_SIZE": 2,
                "RANK": 1,
                "LOCAL_RANK": 1,
                "LOCAL_WORLD_SIZE": 2,
                "MASTER_ADDR": "a",
                "MASTER_PORT": 99999,
            },
            "MASTER_PORT=99999: is no port",
        ),
        (srun(4, 0, 3), "SLURM_NODEID=3: is not in SLURM_STEP_TASKS_PER_NODE=2\\(x2\\),1"),
        (srun("", 0, 0), "SLURM_PROCID=: is no number"),
        (srun(5, 0, 2), "RANK=5: is not below WORLD_SIZE=5"),
    ],
)
def test_a_place_that_contradicts_itself_is_refused(environment, values, says):
    environment(**values)
    with pytest.raises(ConfigError, match=says) as caught:
        place()
        ranks.meeting_place()
    assert "\n" not in str(caught.value)
