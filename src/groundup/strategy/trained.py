"""What a strategy may ask of the module it trains, where it makes the steps itself; objectives are not known here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from lightning import LightningModule
from torch import Tensor

from groundup.core.progress import Progress


class Setting(Protocol):
    """How often rows are logged."""

    @property
    def log_every(self) -> int: ...


class Trained(Protocol):
    """The face of an objective towards its strategy.

    Attributes:
        progress: the clock.
        setting: `log_every`, optimizer steps between rows of the log.
    """

    progress: Progress
    setting: Setting

    @property
    def total(self) -> Progress:
        """The clock at the end of the run."""

    @property
    def folder(self) -> Path:
        """The run folder, whose name is the run's identity."""

    def gradients(self, step: Any) -> dict[str, Tensor]:
        """Add the gradient of a Step's mean loss to the parameters; gives sums of what is measured."""

    def update(self, step: Any, means: dict[str, Tensor]) -> None:
        """Move the weights along the gradients that are there, and the clock; log what is to be logged."""

    def write(self, metrics: dict[str, float]) -> None:
        """Log a row at the clock's step."""


def trained(module: LightningModule | None) -> Trained:
    """The same module, seen as what a strategy asks."""
    return cast(Trained, module)
