"""What is submitted to Slurm, and what becomes of it in a stand-in for sbatch, srun and scontrol on this machine."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from groundup.core import ranks
from groundup.core.errors import ConfigError
from groundup.launcher import config, requeue
from groundup.launcher.cordon import cordon
from groundup.launcher.job import Job

pytest.importorskip("submitit", reason="it stands in requirements-slurm.txt")

STAND_IN = Path(__file__).with_name("slurm")
SCRIPT = """
import os, sys, time
from pathlib import Path
from groundup.core import ranks

place = (ranks.rank(), ranks.world(), ranks.local_rank(), ranks.local_world(), *ranks.meeting_place())
print("place", *place, sys.argv[1:])
folder = Path(sys.argv[1])
(folder / f"{ranks.rank()}.pid").write_text(str(os.getpid()))
if "wait" in sys.argv and not (folder / "asked").exists():
    time.sleep(60)
(folder / f"{ranks.rank()}.done").write_text(str(ranks.launched()))
sys.exit(3 if "fail" in sys.argv else 0)
"""


@pytest.fixture
def submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Submits a script with some arguments; the file that sbatch was given."""
    monkeypatch.setenv("PATH", f"{STAND_IN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    for name in (*ranks.NAMES, ranks.LAUNCHED, "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def go(*arguments: str, **options: object) -> str:
        chosen = config.Slurm(**{"gpus": False, **options})
        chosen.settle(None)
        launcher = chosen.build()
        assert launcher is not None
        launcher.launch(Job("tiny", ["python", str(script), str(tmp_path), *arguments], tmp_path / "logs", tmp_path))
        return (tmp_path / "logs" / "17" / "17_submission.sh").read_text()

    return go


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_what_is_asked_for_stands_in_the_file_that_sbatch_gets(submit) -> None:
    text = submit(
        nodes=2,
        devices=1,
        gpus=True,
        hours=1.5,
        partition="long",
        account="me",
        qos="high",
        constraint="a100&nvlink",
        cpus=6,
        memory_gb=64,
        setup=["module load cuda"],
        extra={"mail-type": "END", "exclusive": True},
    )
    flags = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE))
    wanted = {"nodes": "2", "ntasks-per-node": "1", "gpus-per-node": "1", "time": "90", "partition": "long"}
    wanted |= {"account": "me", "qos": "high", "constraint": "'a100&nvlink'", "cpus-per-task": "6", "mem": "64GB"}
    wanted |= {"job-name": "tiny", "mail-type": "END", "exclusive": "", "requeue": "", "signal": "USR2@120"}
    assert {name: flags[name] for name in wanted} == wanted
    assert "wckey" not in flags
    assert text.index("module load cuda") < text.index("srun ")
    assert "--kill-on-bad-exit=1" in text


def test_nodes_that_are_cordoned_are_not_asked_for(submit, tmp_path) -> None:
    cordon(tmp_path, "node-7", "it smokes")
    assert re.search(r"^#SBATCH --exclude=node-3,node-7$", submit(exclude=["node-3"]), re.MULTILINE)


def test_every_task_runs_the_command_in_its_place_and_logs_apart(submit, tmp_path, capsys) -> None:
    submit("a b", "x=1", devices=2)
    until(lambda: all((tmp_path / f"{rank}.done").exists() for rank in range(2)))
    told = capsys.readouterr().out
    assert told.startswith("job 17 submitted: ") and f"{tmp_path}/logs/17/17_0_log.out" in told
    for rank in range(2):
        assert (tmp_path / f"{rank}.done").read_text() == "True"  # so it would not submit again
        said = (tmp_path / "logs" / "17" / f"17_{rank}_log.out").read_text()
        port = re.search(rf"place {rank} 2 {rank} 2 127.0.0.1 (\d+) \['{tmp_path}', 'a b', 'x=1'\]", said)
        assert port is not None, said


def test_a_preempted_job_is_queued_again_and_then_runs_the_same_command(submit, tmp_path) -> None:
    text = submit("wait", devices=1)
    until((tmp_path / "0.pid").exists)
    os.kill(int((tmp_path / "0.pid").read_text()), signal.SIGUSR2)
    until((tmp_path / "asked").exists)
    assert (tmp_path / "asked").read_text() == "requeue 17"
    again = tmp_path / "again.sh"
    again.write_text(text)
    os.system(f"sbatch {again} >/dev/null")
    until((tmp_path / "0.done").exists)


def test_a_job_is_queued_again_by_its_own_processes_only_so_often(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("PATH", f"{STAND_IN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert requeue.job(3) is None  # no job
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert (requeue.job(3), requeue.job(0)) == ("17", None)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert (requeue.job(3), requeue.job(4)) == (None, "17")
    requeue.requeue("17")
    assert (tmp_path / "asked").read_text() == "requeue 17"
    monkeypatch.setenv("PATH", "/nowhere")
    requeue.requeue("17")
    assert capfd.readouterr().err.startswith("scontrol requeue 17: ")


def test_a_job_that_slurm_refuses_is_told_in_its_words(submit) -> None:
    with pytest.raises(ConfigError, match=r"Slurm refuses the job .*invalid partition specified: closed"):
        submit(partition="closed")


def test_a_machine_without_slurm_is_refused(submit, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="launcher=slurm: there is no sbatch on this machine"):
        submit()
