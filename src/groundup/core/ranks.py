"""Which process of how many this is, read from the environment that torchrun sets; it knows no torch."""

from __future__ import annotations

import os

from groundup.core.errors import ConfigError


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


def _read(name: str, default: int, least: int = 0) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(
            f"{name}={text}", f"must be a whole number of at least {least}", f"unset {name} or use torchrun"
        )
    return int(text)
