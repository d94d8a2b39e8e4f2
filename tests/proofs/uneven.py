"""A plugin of the proofs: asynchronous SGD whose last worker is slowed fourfold, and whose server notes what it did."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy

from groundup.core import ranks
from groundup.core.config import option, schema
from groundup.strategy import async_sgd
from groundup.strategy.loose_config import AsyncSGD
from groundup.strategy.trained import trained

DONE = "done.txt"
"""In the run folder: the number of each step that was done, in the order of the updates."""


class Slow(async_sgd.Worker):
    """A worker that takes four times as long."""

    def training_step(self, *args: Any, **kwargs: Any) -> None:
        """Compute, and sleep three times as long."""
        began = time.monotonic()
        super().training_step(*args, **kwargs)
        time.sleep(3 * (time.monotonic() - began))


class Server(async_sgd.Server):
    """A server that notes the number of each update's step."""

    def training_step(self, *args: Any, **kwargs: Any) -> None:
        """Update, and note it."""
        super().training_step(*args, **kwargs)
        with (trained(self.lightning_module).folder / DONE).open("a") as file:
            file.write(f"{args[0].step}\n")


@schema("strategy", "uneven")
class Uneven(AsyncSGD):
    """Asynchronous SGD among unequal workers."""

    slowed: bool = option(True, "slow the last worker")

    def build(self, accelerator: str, devices: int) -> Strategy:
        """On the CPU alone."""
        seconds = self.timeout_minutes * 60
        if ranks.rank() == 0:
            return Server(torch.device("cpu"), self.port, self.staleness, seconds)
        last = self.slowed and ranks.rank() == ranks.world() - 1
        return (Slow if last else async_sgd.Worker)(torch.device("cpu"), seconds)
