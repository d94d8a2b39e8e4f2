"""A plugin of the proofs: callbacks by which each rank notes, in a file of its own, what it read and what was sent."""

from __future__ import annotations

import time
import zlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.core import ranks
from groundup.core.config import option, schema

if TYPE_CHECKING:
    from lightning import Callback

READ, SENT, SLEPT = "witness", "crossing", "slept.txt"
"""In the run folder: `witness/<launch>-<rank>.txt`, by when rank 0 began its first step, and `crossing/<node>.txt`."""


@schema("callback", "witness")
class Witness:
    """Notes where a launch began and its ranks, then for each step the checksum of every micro-batch by its number."""

    ranks: int = option(1, "with fewer, nobody goes past step `hold`", at_least=1)
    hold: int = option(0, "see `ranks`", at_least=0)

    def build(self) -> Callback:
        """The callback."""
        from lightning import Callback

        options = self

        class Notes(Callback):
            path: Path

            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                launch = trainer.strategy.broadcast(time.time_ns())
                folder = pl_module.folder / READ
                folder.mkdir(exist_ok=True)
                self.path = folder / f"{launch}-{ranks.rank()}.txt"
                self.path.write_text(f"{pl_module.progress.steps} {ranks.world()}\n")

            def on_train_batch_end(
                self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
            ) -> None:
                del trainer, outputs, batch_idx
                rows = [
                    f"{number}:{zlib.crc32(micro_batch.tokens_BT.numpy().tobytes())}"
                    for number, micro_batch in zip(batch.micro_numbers, batch.micro_batches, strict=True)
                    if micro_batch.targets()  # else it is padding
                ]
                with self.path.open("a") as file:
                    file.write(f"{' '.join([str(batch.step), *rows])}\n")
                while ranks.world() < options.ranks and pl_module.progress.steps >= options.hold:
                    time.sleep(0.1)  # until torchrun ends it

        return Notes()


@schema("callback", "sleeper")
class Sleeper:
    """In the first launch rank 1 falls asleep within a step, so that the others wait for it in a collective."""

    step: int = option(1, "the step, counted from 1", at_least=1)

    def build(self) -> Callback:
        """The callback."""
        from lightning import Callback

        step = self.step

        class Falls(Callback):
            def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
                del trainer, batch_idx
                mark = pl_module.folder / SLEPT
                if ranks.rank() == 1 and batch.step + 1 == step and not mark.exists():
                    mark.write_text(datetime.now().astimezone().isoformat())
                    asleep()

        return Falls()


def asleep() -> None:
    """Until it is ended."""
    time.sleep(3600)


@schema("callback", "crossing")
class Crossing:
    """Notes behind each step what went through this machine's network interfaces so far; one process of each does."""

    def build(self) -> Callback:
        """The callback."""
        from lightning import Callback

        class Notes(Callback):
            def on_train_batch_end(
                self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
            ) -> None:
                del trainer, outputs, batch_idx
                if ranks.local_rank():
                    return
                folder = pl_module.folder / SENT
                folder.mkdir(exist_ok=True)
                found = [
                    f"{name.strip()}:{int(numbers.split()[0]) + int(numbers.split()[8])}"
                    for name, _, numbers in (
                        line.partition(":") for line in Path("/proc/net/dev").read_text().splitlines()[2:]
                    )
                ]
                with (folder / f"{ranks.rank()}.txt").open("a") as file:
                    file.write(f"{' '.join([str(batch.step), *found])}\n")

        return Notes()
