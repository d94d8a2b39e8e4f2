"""What a callback may read of the module that trains; the module knows nothing of who reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from groundup.core.progress import Progress
from groundup.data.step import Batch, Step
from groundup.tokenizer.protocol import Tokenizer


class Setting(Protocol):
    """How a module computes: its forward passes run in `precision`, bf16 or fp32; it logs each `log_every` steps."""

    @property
    def precision(self) -> str: ...

    @property
    def log_every(self) -> int: ...


class Watched(Protocol):
    """The face of an objective towards its callbacks.

    Attributes:
        progress: the clock, after the step just done.
        total: the clock at the end of the run.
        nets: what is trained and what it is compared with, by name.
        last: metrics of the last step: `loss` in nats per token, `gradient_norm`, `rate` and others; tensors
            stay on their device, so reading one waits for it.
        validation: newest held-out figure of each source and of `all`, bits per byte say; empty before the first.
        unit: what these are in.
        flops_per_token: model FLOPs of forward and backward pass.
        tokenizer: of the data; None where samples are no text.
        folder: of the run.
        device: where the nets are.
        setting: how they compute.
        gates, between, abandoned: see `groundup.objective.base.Objective`.
    """

    progress: Progress
    nets: nn.ModuleDict
    last: dict[str, float | Tensor]
    validation: dict[str, float]
    setting: Setting
    gates: list[Callable[[Step, Mapping[str, Tensor], Tensor], bool]]
    between: list[Callable[[Step, int], None]]
    abandoned: bool

    def output(self, step: Step, number: int, batch: Batch) -> Any:
        """What the nets make of a micro-batch of a Step in training."""

    @property
    def total(self) -> Progress: ...

    @property
    def unit(self) -> str: ...

    @property
    def flops_per_token(self) -> float: ...

    @property
    def tokenizer(self) -> Tokenizer | None: ...

    @property
    def folder(self) -> Path: ...

    @property
    def device(self) -> torch.device: ...


def watched(module: LightningModule) -> Watched:
    """The same module, seen as what callbacks read."""
    return cast(Watched, module)


def log(trainer: Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Hand metrics to every logger of the run."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=step)


def callbacks(trainer: Trainer) -> list[Callback]:
    """The trainer's callbacks, in their order."""
    found: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning's connector
    return found
