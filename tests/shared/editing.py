"""A callback that writes a run's changes.yaml as a person would, as an option of callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning

from groundup.core import ranks
from groundup.core.config import option, schema
from groundup.trainer.live import FILE


@schema("callback", "editor")
class Options:
    """What to write when, and when to break off."""

    folder: str = option("", "holds N.yaml: what is written once N steps are done; empty: the file is deleted")
    die: int | None = option(None, "break off before this step begins")

    def build(self) -> lightning.Callback:
        """The callback."""
        return Editor(self)


class Killed(BaseException):
    """As if the process had been killed."""


class Editor(lightning.Callback):
    """Writes on rank 0 alone."""

    def __init__(self, options: Any) -> None:
        self.options = options

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """See whether it is time."""
        if batch.step == self.options.die:
            raise Killed
        text = Path(self.options.folder) / f"{batch.step}.yaml"
        if ranks.rank() == 0 and text.exists():
            (pl_module.folder / FILE).unlink(missing_ok=True)
            if text.stat().st_size:
                (pl_module.folder / FILE).write_text(text.read_text())
