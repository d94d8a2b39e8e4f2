"""Where a run's metrics go; none of it defines the run's mathematics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.core.config import group, option, schema
from groundup.core.progress import Progress

if TYPE_CHECKING:
    from groundup.trainer.loggers import Logger

group("logger", "where metrics go: csv is always written, wandb and tensorboard are options", many=True)


def build(configs: Mapping[str, Any], folder: Path, name: str, clock: Progress) -> list[Logger]:
    """The chosen loggers, and csv first if it is not among them: report and curves are made from it.

    Args:
        configs: of the group `logger`.
        folder: of the run; its name is the run's identity.
        name: of the run.
        clock: where training begins or goes on; what was logged for later steps is dropped.
    """
    every = configs if any(config.kind == "csv" for config in configs.values()) else {"csv": Csv(), **configs}
    return [config.build(folder, name, clock) for config in every.values()]


@schema("logger", "csv")
class Csv:
    """metrics.csv and speed.csv in the run folder: a row for each step and name."""

    def build(self, folder: Path, name: str, clock: Progress) -> Logger:
        """The logger, with the rows of steps after `clock` dropped."""
        from groundup.trainer.loggers import Csv

        del name
        return Csv(folder, clock)


@schema("logger", "wandb")
class Wandb:
    """Weights & Biases; needs the package wandb, and no account: without a key it writes files to sync later."""

    project: str = option("groundup", "the project runs are listed in")
    entity: str | None = option(None, "the account or team; null: the key's own")
    group: str | None = option(None, "the runs this one is shown among; null: those of its name")
    mode: str = option("auto", "auto: online if there is a key, else offline", choices=("auto", "online", "offline"))

    def build(self, folder: Path, name: str, clock: Progress) -> Logger:
        """The logger; it goes on with the W&B run that this folder began.

        Raises:
            ConfigError: wandb is not installed.
        """
        from groundup.trainer.loggers import Wandb

        return Wandb(self, folder, name, clock)


@schema("logger", "tensorboard")
class Tensorboard:
    """Event files in the run folder's tensorboard/; needs the package tensorboard."""

    def build(self, folder: Path, name: str, clock: Progress) -> Logger:
        """The logger; TensorBoard is told to forget events of steps after `clock`.

        Raises:
            ConfigError: tensorboard is not installed.
        """
        from groundup.trainer.loggers import Tensorboard

        del name
        return Tensorboard(folder, clock)
