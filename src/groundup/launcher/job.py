"""What is launched: a command line and a place for what its processes say; nothing about how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Job:
    """A command that every process of a job runs.

    Attributes:
        name: for people.
        command: absolute program and script, with arguments.
        logs: the folder in which each job gets one of its own.
        cordon: the folder of the list of nodes that no job is to use; None: there is none.
        reached: the step from which the job would go on now.
    """

    name: str
    command: list[str]
    logs: Path
    cordon: Path | None = None
    reached: Callable[[], int] = lambda: 0


class Launcher(Protocol):
    """What starts a job."""

    def launch(self, job: Job) -> None:
        """Start it, and see to its end where that is this program's business.

        Raises:
            RankError: a process failed.
            StorageError: the logs cannot be written.
        """
