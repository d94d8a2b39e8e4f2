"""Callbacks of tests as options of runs, for as long as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from groundup.core.config import groups


@contextmanager
def offered(name: str, options: type) -> Iterator[None]:
    """In this block `callback=[..., <name>]` may be said, and torch sums in one order."""
    before, kinds = torch.get_num_threads(), groups()["callback"].kinds
    torch.set_num_threads(1)
    kinds[name] = options
    try:
        yield
    finally:
        kinds.pop(name)
        torch.set_num_threads(before)
