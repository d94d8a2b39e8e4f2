"""Starts of a job one after another at a store that outlives them: each has a part of its own; who comes is not known.

torchrun keeps its store while it ends processes and starts them again, be they more or fewer. Its count of restarts
cannot tell one start from another: each agent counts only those that it saw a process of its own fail before.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed import DistError

from groundup.core.errors import ConfigError

_TICKETS = "groundup/tickets"
SILENT = ("rank 0", "does not answer any more", "see what it says, or its log")


def part_of_start(store: Store, rank: int, limit: timedelta) -> tuple[Store, Callable[[], None]]:
    """What the ranks of this start have to themselves of a store that those of earlier ones, all ended, used as well.

    Each rank draws a ticket. That of rank 0 names the start, and it answers the others' with the name.

    Args:
        store: that all can reach.
        rank: this process's.
        limit: how long to wait for an answer.

    Returns:
        That part, and what rank 0 has to call while it waits for others, lest they wait for it.

    Raises:
        ConfigError: rank 0 gave no answer.
    """
    ticket = store.add(_TICKETS, 1)
    if rank == 0:
        return PrefixStore(_part(ticket), store), _answering(store, ticket)
    try:
        store.wait([_answer(ticket)], limit)
        return PrefixStore(_part(int(store.get(_answer(ticket)))), store), lambda: None
    except DistError:
        raise ConfigError(*SILENT) from None


def _answering(store: Store, name: int) -> Callable[[], None]:
    """What answers all tickets drawn so far; those of earlier starts have nobody left who would read it."""
    answered = 0

    def answer() -> None:
        nonlocal answered
        drawn = store.add(_TICKETS, 0)
        for ticket in range(answered + 1, drawn + 1):
            store.set(_answer(ticket), str(name))
        answered = drawn

    return answer


def _answer(ticket: int) -> str:
    return f"{_TICKETS}/{ticket}"


def _part(name: int) -> str:
    return f"groundup/start/{name}"
