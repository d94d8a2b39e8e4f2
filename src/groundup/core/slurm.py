"""What Slurm tells the tasks of a step that srun started, in torchrun's terms; it submits nothing.

Variables as `man srun` lists them under output environment. Those of the step are read, never those of the job: a shell
or a batch script inside a job is one process, however many tasks were asked for.
"""

from __future__ import annotations

import os
import re
import zlib

from groundup.core.errors import ConfigError

_FIRST_PORT, _PORTS = 20_000, 10_000
"""Below the range from which Linux gives ports to clients (32768 onwards)."""

_GROUP = re.compile(r"(\d+)(?:\(x(\d+)\))?")
_HOST = re.compile(r"([^,\[]+)(?:\[([^\]]*)\])?([^,\[]*)")


def ranks() -> dict[str, str] | None:
    """RANK, WORLD_SIZE and the others for this task of several; None outside a step of several tasks.

    Raises:
        ConfigError: the step's variables contradict each other.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    if not tasks.isdecimal() or int(tasks) < 2:
        return None
    values = {name: _read(f"SLURM_{name}") for name in ("PROCID", "LOCALID", "NODEID")}
    per_node = tasks_per_node(os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if values["NODEID"] >= len(per_node):
        raise ConfigError(
            f"SLURM_NODEID={values['NODEID']}",
            f"is not in SLURM_STEP_TASKS_PER_NODE={os.environ.get('SLURM_STEP_TASKS_PER_NODE', '')}",
            "start the program with srun",
        )
    job, step = os.environ.get("SLURM_JOB_ID", "0"), os.environ.get("SLURM_STEP_ID", "0")
    return {
        "RANK": str(values["PROCID"]),
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": str(values["LOCALID"]),
        "LOCAL_WORLD_SIZE": str(per_node[values["NODEID"]]),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR") or _address(len(per_node)),
        "MASTER_PORT": os.environ.get("MASTER_PORT") or str(port(job, step)),
    }


def tasks_per_node(text: str) -> list[int]:
    """Tasks of each node: `2(x3),1` is 2, 2, 2, 1."""
    return [int(many) for many, times in _GROUP.findall(text) for _ in range(int(times or 1))]


def first_host(nodes: str) -> str:
    """The first host of a node list: of `node[007-9,12]-ib,login` it is `node007-ib`."""
    match = _HOST.match(nodes)
    if match is None:
        raise ConfigError(f"SLURM_STEP_NODELIST={nodes}", "names no node", "set MASTER_ADDR to the first node's name")
    before, numbers, after = match.groups()
    return before + re.split(r"[-,]", numbers or "")[0] + after


def port(job: str, step: str) -> int:
    """The port of a step's rank 0: every task finds the same one, and steps that share a node hardly ever do."""
    return _FIRST_PORT + zlib.crc32(f"{job}.{step}".encode()) % _PORTS


def _address(nodes: int) -> str:
    return "127.0.0.1" if nodes == 1 else first_host(os.environ.get("SLURM_STEP_NODELIST", ""))


def _read(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdecimal():
        raise ConfigError(f"{name}={text}", "is no number", "start the program with srun")
    return int(text)
