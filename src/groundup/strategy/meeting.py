"""How the processes of a job find each other, and who is missed meanwhile; what they do together is not known here.

They meet at a store that rank 0 (or torchrun) keeps before any collective is begun, since a collective that waits for
a process cannot say for which.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore
from torch.distributed import DistError

from groundup.core import ranks
from groundup.core.errors import ConfigError, UserError
from groundup.strategy.starts import SILENT, part_of_start

PATIENCE_SECONDS = 60.0
"""After so long a wait is told of, and again after each further such time."""

_LOOK_SECONDS = 0.2
_LATER = timedelta(seconds=10)
"""So much longer than rank 0 the others wait, for it to give up first and say why."""

_VERDICT, _SEAT, _ARRIVED, _ENTERED = "verdict", "seat", "arrived", "entered"


def meet(device: torch.device, timeout: timedelta, patience: float = PATIENCE_SECONDS) -> None:
    """Make the group of all processes once all have come, and see that a collective goes through.

    On CUDA devices tensors travel by NCCL and those of the host by gloo, so there is always a way for host tensors.
    A process that does not come, or a collective that does not end, is told of on standard error each `patience`
    seconds. Nothing is done where there is a group already.

    Args:
        device: this process's, already the current one.
        timeout: how long to wait for the others, and how long any later collective may wait.
        patience: in seconds.

    Raises:
        ConfigError: some did not come, two say they are the same rank, or they do not agree on how many they are. All
            that came raise it.
    """
    if distributed.is_initialized():
        return
    rank, world = ranks.rank(), ranks.world()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    bound = device if device.type == "cuda" else None
    if world == 1:
        distributed.init_process_group(
            backend, store=HashStore(), rank=0, world_size=1, timeout=timeout, device_id=bound
        )
        _part_at_exit(device)
        return
    store, answer = meeting_store(timeout, patience), None
    if _kept_by_agent():
        store, answer = part_of_start(store, rank, timeout + _LATER)
    arrive(store, rank, world, timeout, patience, answer)
    with _watched(store, rank, world, patience):
        distributed.init_process_group(
            backend, store=PrefixStore("group", store), rank=rank, world_size=world, timeout=timeout, device_id=bound
        )
        _part_at_exit(device)
        first = torch.ones((), device=device)
        distributed.all_reduce(first)
        if first.item() != world:
            raise RuntimeError(f"the first collective over {world} ranks counted {first.item()}")


def arrive(
    store: Store,
    rank: int,
    world: int,
    timeout: timedelta,
    patience: float,
    answer: Callable[[], None] | None = None,
) -> None:
    """Wait until all ranks have come to a store that no others use; rank 0 calls `answer` now and then meanwhile.

    Raises:
        ConfigError: as `meet`.
    """
    if store.add(f"{_SEAT}/{rank}", 1) > 1:
        error = ConfigError(f"RANK={rank}", "another process says so too", "give each process a RANK of its own")
        store.set(f"{_SEAT}/taken", _written(error))
        raise error
    store.set(f"{_ARRIVED}/{rank}", json.dumps({"host": socket.gethostname(), "world": world}))
    if rank == 0:
        fault = _await_all(store, world, timeout, patience, answer or (lambda: None))
        store.set(_VERDICT, json.dumps({"world": world, "fault": fault and _written(fault)}))
    else:
        try:
            store.wait([_VERDICT], timeout + _LATER)
            verdict = json.loads(store.get(_VERDICT))
        except DistError:
            raise ConfigError(*SILENT) from None
        fault = verdict["fault"] and ConfigError(*json.loads(verdict["fault"]))
        if fault is None and verdict["world"] != world:
            what = f"rank 0 has WORLD_SIZE={verdict['world']}"
            raise ConfigError(f"WORLD_SIZE={world} on rank {rank}", what, "launch all ranks alike")
    if fault is not None:
        fault.by_all = True
        raise fault


def _await_all(
    store: Store, world: int, timeout: timedelta, patience: float, answer: Callable[[], None]
) -> UserError | None:
    """What rank 0 does: see everyone come; what is wrong, if something is."""
    begun = time.monotonic()
    missing, told = list(range(world)), begun
    while missing:
        answer()
        missing = [rank for rank in missing if not store.check([f"{_ARRIVED}/{rank}"])]
        if store.check([f"{_SEAT}/taken"]):
            return ConfigError(*json.loads(store.get(f"{_SEAT}/taken")))
        now = time.monotonic()
        if missing and now - begun > timeout.total_seconds():
            return ConfigError(
                ranks.described(missing, _hosts(store, missing, world)),
                f"did not come within {now - begun:.0f} s",
                "see what they say, or their logs",
            )
        if missing and now - told > patience:
            told = now
            have = "has" if len(missing) == 1 else "have"
            who = ranks.described(missing, _hosts(store, missing, world))
            _say(f"{who} {have} not arrived after {now - begun:.0f} s")
        if missing:
            time.sleep(_LOOK_SECONDS)
    for rank in range(world):
        theirs = json.loads(store.get(f"{_ARRIVED}/{rank}"))
        if theirs["world"] != world:
            where = f"WORLD_SIZE={theirs['world']} on rank {rank}"
            return ConfigError(where, f"rank 0 has WORLD_SIZE={world}", "launch all ranks alike")
    return None


def _hosts(store: Store, missing: Sequence[int], world: int) -> dict[int, str]:
    """Where missing ranks should be: with those of their machine that came."""
    local = ranks.local_world()
    found = {}
    for rank in missing:
        first = rank // local * local
        for neighbour in range(first, min(first + local, world)):
            if neighbour not in missing and store.check([f"{_ARRIVED}/{neighbour}"]):
                found[rank] = str(json.loads(store.get(f"{_ARRIVED}/{neighbour}"))["host"])
                break
    return found


def meeting_store(timeout: timedelta, patience: float = PATIENCE_SECONDS) -> Store:
    """The store that torchrun keeps, else that of rank 0, which may have been handed a socket that listens already.

    Args:
        timeout: how long to look for it, and to wait for what is asked of it.
        patience: after so many seconds, and again after each further such time, a vain search is told of.

    Raises:
        ConfigError: rank 0 cannot listen where it should, or another rank finds nobody there.
    """
    address, port = ranks.meeting_place()
    rank = ranks.rank()
    listening = os.environ.pop(ranks.LISTENING, None)
    begun = time.monotonic()

    def told() -> None:
        _say(f"rank {rank} finds nobody at {address}:{port} after {time.monotonic() - begun:.0f} s")

    try:
        with _every(patience, told):
            return TCPStore(
                address,
                port,
                None,
                is_master=rank == 0 and not _kept_by_agent(),
                timeout=timeout,
                wait_for_workers=False,
                multi_tenant=True,  # rank 0 may ask for it again
                master_listen_fd=None if listening is None else int(listening),
            )
    except DistError as error:
        if rank == 0 and not _kept_by_agent():
            what = f"rank 0 cannot listen there ({str(error).splitlines()[0]})"
            remedy = "give a free MASTER_PORT, or use launcher=local or torchrun --standalone, which find one"
        else:
            what = f"rank {rank} finds nobody there after {time.monotonic() - begun:.0f} s"
            remedy = "start rank 0, and give its machine's address"
        raise ConfigError(f"MASTER_ADDR={address} MASTER_PORT={port}", what, remedy) from None


def _kept_by_agent() -> bool:
    """Whether torchrun keeps the store."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


@contextmanager
def _watched(store: Store, rank: int, world: int, patience: float) -> Iterator[None]:
    """In this block the first collective is made; rank 0 tells who has not entered it while it does not end."""
    store.set(f"{_ENTERED}/{rank}", "")
    begun = time.monotonic()
    # A client answers one question at a time, and the collective's own may wait in it.
    other: Any = store
    if rank == 0:
        other = other.clone()

    def told() -> None:
        absent = [number for number in range(world) if not other.check([f"{_ENTERED}/{number}"])]
        whose = f"{ranks.described(absent, {})} did not enter it" if absent else "all ranks are in it: see the network"
        _say(f"the first collective has not ended after {time.monotonic() - begun:.0f} s; {whose}")

    with _every(patience, told if rank == 0 else None):
        yield


@contextmanager
def _every(seconds: float, tell: Callable[[], None] | None) -> Iterator[None]:
    """While this block lasts, `tell` is called each so many seconds, from another thread."""
    if tell is None:
        yield
        return
    done = threading.Event()

    def run() -> None:
        while not done.wait(seconds):
            tell()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _written(error: UserError) -> str:
    return json.dumps([error.where, error.what, error.remedy])


def _say(text: str) -> None:
    print(f"waiting: {text}", file=sys.stderr, flush=True)


def leave_at_once(exception: BaseException) -> None:
    """Have this process end, when it ends, without taking its groups apart; for one that fails among several.

    A collective in flight may need the interpreter to be done, which waits meanwhile for the collective's group to go:
    the process would never end, and its launcher would have to kill it.

    Args:
        exception: that which ends it, from which it takes its exit code.
    """
    if ranks.world() == 1:
        return
    code = 128 + signal.SIGINT if isinstance(exception, KeyboardInterrupt) else getattr(exception, "exit_code", 1)

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)


def _part_at_exit(device: torch.device) -> None:
    if device.type == "cuda":  # NCCL warns of a group that is left as it is
        atexit.register(lambda: distributed.is_initialized() and distributed.destroy_process_group())
