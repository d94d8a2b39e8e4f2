"""A command as a job of Slurm, through submitit; what the job's processes are to each other they read from srun."""

from __future__ import annotations

import os
import runpy
import shlex
import sys
from dataclasses import dataclass
from typing import Any

import submitit

from groundup.core import ranks
from groundup.core.errors import ConfigError
from groundup.core.files import make_folder
from groundup.launcher.config import Slurm as Options
from groundup.launcher.cordon import cordoned
from groundup.launcher.job import Job


@dataclass(frozen=True)
class Task:
    """What each process of the job does: run the script as the command line would, in the process srun started.

    Attributes:
        command: program, script and arguments.
    """

    command: list[str]

    def __call__(self) -> None:
        """Run the script to its end; it exits as it would by hand, and srun then ends the other processes."""
        os.environ[ranks.LAUNCHED] = "slurm"
        sys.argv[:] = self.command[1:]
        runpy.run_path(self.command[1], run_name="__main__")

    def checkpoint(self) -> Any:
        """What the job is when it is queued again: the same command, which goes on from its newest checkpoint."""
        return submitit.helpers.DelayedSubmission(self)


class Slurm:
    """Submits a job and leaves it to Slurm.

    Args:
        options: nodes, limits, whose account.
    """

    def __init__(self, options: Options) -> None:
        self.options = options

    def launch(self, job: Job) -> None:
        """Submit the command, a process per device and node, and tell the job's number and where its logs are.

        The processes write `<number>/<number>_N_log.out` and `.err` below the job's folder of logs.

        Raises:
            ConfigError: Slurm refuses the job, in its words.
            StorageError: the logs cannot be written.
        """
        logs = make_folder(job.logs.resolve())
        executor = submitit.SlurmExecutor(folder=logs / "%j", max_num_timeout=self.options.requeues)
        try:
            executor.update_parameters(**self.parameters(job))
            submitted = executor.submit(Task(job.command))
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            said = next(reversed(str(error).strip().splitlines()), "it gives no reason")
            raise ConfigError("launcher=slurm", f"Slurm refuses the job ({said})", "see --help launcher") from None
        number = submitted.job_id
        print(f"job {number} submitted: {shlex.join(job.command)}")
        print(f"logs: {logs / number}/{number}_0_log.out, one for each rank, errors beside it in .err")
        print(f"look: squeue --job {number}; stop: scancel {number}", flush=True)

    def parameters(self, job: Job) -> dict[str, Any]:
        """What sbatch is asked for, in submitit's names."""
        options = self.options
        nodes = {*options.exclude, *(cordoned(job.cordon) if job.cordon else ())}
        asked = {
            "job_name": job.name,
            "exclude": ",".join(sorted(nodes)) or None,
            "nodes": options.nodes,
            "ntasks_per_node": options.devices,
            "gpus_per_node": options.devices if options.gpus else None,
            "time": max(1, round(options.hours * 60)),
            "partition": options.partition,
            "account": options.account,
            "qos": options.qos,
            "constraint": options.constraint,
            "cpus_per_task": options.cpus,
            "mem": None if options.memory_gb is None else f"{options.memory_gb}GB",
            "signal_delay_s": options.notice_seconds,
            "setup": options.setup or None,
            "srun_args": ["--kill-on-bad-exit=1"],
            "additional_parameters": {"requeue": True, **options.extra},
        }
        given = {key: value for key, value in asked.items() if value is not None}
        return {**given, "wckey": None}  # a cluster that keeps account of such keys does not know submitit's
