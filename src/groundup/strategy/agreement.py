"""Whether all ranks mean the same run, asked before its first step; what the facts are is the caller's business."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import distributed

from groundup.core.errors import ConfigError
from groundup.core.ranks import described

T = TypeVar("T")
_MOST = 4
"""So many fields, and values of each, are told at most."""

_WIDTH = 60


def agree(facts: Mapping[str, str], details: Mapping[str, str]) -> None:
    """Compare facts over all ranks in one exchange; of ranks that differ, compare the details of their configs too.

    All ranks call this together; one that is alone agrees with itself.

    Args:
        facts: by name, what must be the same everywhere; `config` stands for the details.
        details: every value of the config by its key.

    Raises:
        ConfigError: on all ranks, the same: which fields differ, and which ranks have which value.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    told = gathered((socket.gethostname(), dict(facts)))
    if all(theirs == told[0][1] for _, theirs in told):
        return
    hosts = {rank: host for rank, (host, _) in enumerate(told)}
    shown = differences([theirs for _, theirs in told], hosts)
    if "config" in shown:
        by_key = differences(gathered(dict(details)), hosts)
        shown = {**{name: text for name, text in shown.items() if name != "config" or not by_key}, **by_key}
    more = f" and {len(shown) - _MOST} more" if len(shown) > _MOST else ""
    error = ConfigError(
        "ranks",
        f"do not agree: {', '.join(list(shown.values())[:_MOST])}{more}",
        "start every rank with the same command, code and data",
    )
    error.by_all = True
    raise error


def differences(told: Sequence[Mapping[str, str]], hosts: Mapping[int, str]) -> dict[str, str]:
    """The fields that are not the same for all, each with what is whose in words; ranks are places in `told`."""
    found = {}
    for name in dict.fromkeys(name for facts in told for name in facts):
        owners: dict[str, list[int]] = {}
        for rank, facts in enumerate(told):
            owners.setdefault(facts.get(name, "absent"), []).append(rank)
        if len(owners) > 1:
            fewest = sorted(owners, key=lambda value: len(owners[value]))
            each = [f"{_cut(value)} on {described(owners[value], hosts)}" for value in fewest[:_MOST]]
            found[name] = f"{name} is {' and '.join(each)}"
    return found


def _cut(value: str) -> str:
    return value if len(value) <= _WIDTH else f"{value[:_WIDTH]}..."


def gathered(own: T) -> list[T]:
    """What each rank has, by rank. Through host memory: the group has a way for that on every device.

    All ranks call this together; one that is alone has its own.
    """
    if not distributed.is_initialized():
        return [own]
    found: list[T] = [own] * distributed.get_world_size()
    distributed.all_gather_object(found, own)
    return found
