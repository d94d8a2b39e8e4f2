"""Which process of how many this is, read from what torchrun, a launcher of ours or srun set; it knows no torch."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

from groundup.core import slurm
from groundup.core.errors import ConfigError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets for each process."""

LAUNCHED = "GROUNDUP_LAUNCHED"
"""Set for processes that a launcher of ours started, lest they start others."""

LISTENING = "GROUNDUP_LISTENING"
"""Set for rank 0 by a launcher that hands it a socket which listens at MASTER_PORT already: its descriptor."""


def rank() -> int:
    """This process's number over all machines, 0 where nothing launched it as one of several.

    Raises:
        ConfigError: RANK is no number below WORLD_SIZE.
    """
    number = _read("RANK", 0)
    if number >= world():
        raise ConfigError(f"RANK={number}", f"is not below WORLD_SIZE={world()}", "launch with torchrun, or unset RANK")
    return number


def local_rank() -> int:
    """This process's number on its machine.

    Raises:
        ConfigError: LOCAL_RANK is no number.
    """
    return _read("LOCAL_RANK", 0)


def world() -> int:
    """How many processes train together, 1 where nothing says otherwise.

    Raises:
        ConfigError: WORLD_SIZE is no positive number.
    """
    return _read("WORLD_SIZE", 1, least=1)


def local_world() -> int:
    """Processes on this machine: what torchrun says, else all of them.

    Raises:
        ConfigError: of several processes, something torchrun sets is missing or does not fit.
    """
    size = world()
    if size == 1:
        return 1
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not environment().get(name):
            raise ConfigError(name, f"is unset though WORLD_SIZE={size}", "launch with torchrun, or unset WORLD_SIZE")
    mine, local = rank(), local_rank()
    here = _read("LOCAL_WORLD_SIZE", size, least=1)
    if not local < here <= size or local > mine:
        raise ConfigError(
            f"LOCAL_WORLD_SIZE={here}",
            f"must be above LOCAL_RANK={local} and at most WORLD_SIZE={size}, and LOCAL_RANK at most RANK={mine}",
            "launch with torchrun",
        )
    return here


def meeting_place() -> tuple[str, int]:
    """Address and port at which rank 0 of several waits for the others.

    Raises:
        ConfigError: MASTER_PORT is no port.
    """
    port = _read("MASTER_PORT", 0, least=1)
    if port > 65535:
        raise ConfigError(f"MASTER_PORT={port}", "is no port", "give one from 1024 to 65535")
    return environment().get("MASTER_ADDR", "127.0.0.1"), port


def launched() -> bool:
    """Whether something started this process as one of a job, be it of one process."""
    return bool(os.environ.get(LAUNCHED) or os.environ.get("RANK") or os.environ.get("WORLD_SIZE")) or world() > 1


def node() -> str:
    """This machine's name, as Slurm knows it where Slurm runs here."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def under_torchrun() -> bool:
    """Whether torchrun started this process, and watches it."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def described(numbers: Sequence[int], hosts: Mapping[int, str]) -> str:
    """Ranks in words: `rank 3 on b`, or `ranks 0-2, 5 on a, b`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    places = list(dict.fromkeys(hosts[number] for number in sorted(numbers) if number in hosts))
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return f"rank{'s' if len(numbers) > 1 else ''} {words}" + (f" on {', '.join(places[:3])}{more}" if places else "")


def environment() -> Mapping[str, str]:
    """The variables torchrun sets, under its names: its own if there are any, else what they are under srun."""
    if os.environ.get("RANK") or os.environ.get("WORLD_SIZE"):
        return os.environ
    return slurm.ranks() or os.environ


def _read(name: str, default: int, least: int = 0) -> int:
    text = environment().get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(
            f"{name}={text}", f"must be a whole number of at least {least}", f"unset {name} or use torchrun"
        )
    return int(text)
