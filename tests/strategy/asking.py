"""A callback that asks the process it is in to stop, as a scheduler does, after so many steps."""

from __future__ import annotations

import os
import signal

import lightning

from groundup.core.config import option, schema


class Asks(lightning.Callback):
    """Asks the server to stop once it has made so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if pl_module.progress.steps == self.steps:
            os.kill(os.getpid(), signal.SIGTERM)


@schema("callback", "asks")
class AsksOptions:
    """Where the server is asked to stop."""

    steps: int = option(5, "steps made before")

    def build(self) -> lightning.Callback:
        """The callback."""
        return Asks(self.steps)
