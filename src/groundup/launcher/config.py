"""Options of the launchers: what starts the processes of a job; importing this starts nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from groundup.core import ranks
from groundup.core.config import group, option, schema
from groundup.core.errors import ConfigError, require

if TYPE_CHECKING:
    from groundup.launcher.job import Launcher

group("launcher", "what starts the job's processes: torchrun or srun from outside, this program, or Slurm")

REQUIREMENTS = "requirements-slurm.txt"
_SET = ("job-name", "output", "error", "open-mode", "signal", "array", "requeue", "no-requeue", "exclude")


@dataclass(kw_only=True)
class Watched:
    """What holds for processes of a job whoever started them: when they hang, and where they may run."""

    hang_seconds: float | None = option(
        600.0, "a step that takes longer hangs: stacks are dumped, all processes killed; null: nobody looks", above=0
    )
    phase_seconds: float = option(
        3600.0, "as long for the start, a first step with its compilation, and what lies between two steps", above=0
    )
    health: bool | None = option(
        None, "check each machine before it starts; null: where it has NVIDIA GPUs, or is one of several"
    )
    cordon: str | None = option(None, "folder of the list of nodes no job is to use; null: that of all runs")


@schema("launcher", "none")
class Here(Watched):
    """This process trains, alone or as one of those that torchrun or srun started."""

    def starts(self) -> bool:
        """Whether this process is to start others rather than to train."""
        return False

    def world(self) -> int:
        """How many processes the job has."""
        return ranks.world()

    def settle(self, devices: int | None) -> None:
        """Nothing is open here."""

    def build(self) -> Launcher | None:
        """Nothing launches."""
        return None


@dataclass(kw_only=True)
class Starting(Watched):
    """What the launchers share: a process that one of them started trains."""

    devices: int | None = option(None, "processes on each machine", at_least=1)
    nodes = 1

    def starts(self) -> bool:
        """Whether this process is to start others rather than to train."""
        return not ranks.launched()

    def world(self) -> int:
        """How many processes the job has."""
        return self.nodes * (self.devices or 1) if self.starts() else ranks.world()


@schema("launcher", "local")
class Local(Starting):
    """A process for each device of this machine, watched over: for those who need not know torchrun."""

    devices: int | None = option(None, "processes to start; null: one for each GPU of this machine", at_least=1)
    grace_seconds: float = option(10.0, "how long the others may take to end when a process fails", above=0)
    stop_seconds: float = option(
        600.0, "how long all may take to save when the job is asked to stop; asked again, it ends at once", above=0
    )
    last_lines: int = option(20, "lines shown of the log of a process that failed", at_least=0)
    restarts: int = option(3, "times a job that failed is started again without having got further", at_least=0)
    backoff_seconds: float = option(
        5.0, "before the first restart; doubled before each further one, up to five minutes", at_least=0
    )

    def settle(self, devices: int | None) -> None:
        """Fill in how many processes, and see that each has a device.

        Args:
            devices: GPUs of this machine, None where the CPU computes.

        Raises:
            ConfigError: there are not so many, or it is not known how many are wanted.
        """
        if not self.starts():
            return
        if devices is not None and (self.devices or 0) > devices:
            raise ConfigError(f"devices={self.devices}", f"this machine has {devices}", "ask for fewer")
        if self.devices is None and devices is None:
            raise ConfigError("devices=null", "there is no GPU to count", "give launcher.devices=N for N processes")
        self.devices = self.devices or devices

    def build(self) -> Launcher | None:
        """The launcher, or None where this is one of its processes."""
        if not self.starts():
            return None
        from groundup.launcher.entry import admit
        from groundup.launcher.local import Local
        from groundup.launcher.supervisor import Budget, Supervisor

        assert self.devices is not None
        devices = self.devices
        return Supervisor(
            Local(devices, self.grace_seconds, self.last_lines, self.stop_seconds),
            Budget(self.restarts, self.backoff_seconds),
            lambda job: admit(self, devices, job.logs.parent, job.cordon),
        )


@schema("launcher", "slurm")
class Slurm(Starting):
    """The same command as a job of Slurm, submitted through submitit; it goes on by itself when it is preempted."""

    devices: int = option(1, "GPUs, and as many processes, on each node", at_least=1)
    nodes: int = option(1, "machines", at_least=1)
    gpus: bool = option(True, "ask Slurm for GPUs; off for nodes that have none")
    hours: float = option(24.0, "time limit", above=0)
    partition: str | None = option(None, "where it is queued")
    account: str | None = option(None, "who pays")
    qos: str | None = option(None, "quality of service")
    constraint: str | None = option(None, "what nodes must have, as `a100&nvlink`")
    cpus: int | None = option(None, "CPU cores of each process", at_least=1)
    memory_gb: int | None = option(None, "memory of each node", at_least=1)
    requeues: int = option(
        3, "times it is queued again at its time limit or when it hangs; after preemption always", at_least=0
    )
    notice_seconds: int = option(120, "how long before its end the job is told of it", at_least=1)
    exclude: list[str] = option([], "nodes not to use, beside those that are cordoned")
    setup: list[str] = option([], "lines of shell before the processes start, as `module load cuda`")
    extra: dict[str, Any] = option({}, "further parameters of sbatch: {mail-type: END}")

    def __post_init__(self) -> None:
        for name in self.extra:
            if name.replace("_", "-") in _SET:
                raise ConfigError(f"extra.{name}", "is the launcher's own to set", "leave it out")
        if self.notice_seconds >= self.hours * 3600:
            raise ConfigError(
                f"notice_seconds={self.notice_seconds}", f"is not below hours={self.hours:g}", "give less notice"
            )

    def settle(self, devices: int | None) -> None:
        """See that there is something to submit with; the devices are other machines'.

        Raises:
            ConfigError: submitit or Slurm is not here.
        """
        del devices
        if not self.starts():
            return
        require("submitit", "launcher=slurm", REQUIREMENTS)
        from shutil import which

        for program in ("sbatch", "srun"):
            if which(program) is None:
                raise ConfigError(
                    "launcher=slurm", f"there is no {program} on this machine", "submit from a node of the cluster"
                )

    def build(self) -> Launcher | None:
        """The launcher, or None where this is one of its processes."""
        if not self.starts():
            return None
        from groundup.launcher.slurm import Slurm

        return Slurm(self)
