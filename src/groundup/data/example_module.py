"""The LightningDataModule of labelled examples; what a row holds it leaves to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from groundup.core.progress import Progress
from groundup.data.example_opening import Opened
from groundup.data.labelled import HeldOut, Steps
from groundup.data.module import StepModule

if TYPE_CHECKING:
    from groundup.data import config


class ExampleModule(StepModule):
    """Training steps of examples and the held-out ones, for one rank of one segment.

    Args:
        options: which examples, and how steps are made of them.
        seed: names the order.
        first: where the segment starts; the first item is step `first.steps` at sample `first.samples`.
        steps: optimizer steps in the segment.
        rank, world: which of how many processes.

    Raises:
        DataError: as `Opened`.
    """

    steps: Steps
    held_out: list[HeldOut]

    def __init__(
        self, options: config.Examples, seed: int, first: Progress, steps: int, rank: int = 0, world: int = 1
    ) -> None:
        super().__init__()
        self.config = options
        # Ranks share the files: one of them reads the contents to check them.
        self.opened = Opened(options, options.verify if rank == 0 else "size")
        self.steps = Steps(
            self.opened.train,
            self.opened.layout,
            seed,
            first,
            steps,
            options.samples,
            options.rows,
            rank,
            world,
            options.skips,
            options.repeat_samples,
        )
        self.held_out = [HeldOut(self.opened.held_out, self.opened.layout, options.rows, rank, world)]
