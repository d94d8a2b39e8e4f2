"""A module as small as Lightning allows that offers callbacks what an objective does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn

from groundup.core.bits import OF_TEXT
from groundup.core.progress import Progress
from groundup.trainer.loggers import Csv

SAMPLES, TOKENS = 4, 32


class Batches:
    """So many batches of noise, each a function of its number."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(self.count):
            yield torch.randn(SAMPLES, 8, generator=torch.Generator().manual_seed(number))


class Tiny(lightning.LightningModule):
    """Fits a line through noise, with dropout from torch's global generator, so that any draw of others shows."""

    def __init__(self, folder: Path, first: Progress, total: Progress) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.folder, self.progress, self.total = folder, first, total
        self.nets = nn.ModuleDict({"model": nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 1))})
        self.last: dict[str, float | Tensor] = {}
        self.validation: dict[str, float] = {}
        self.unit = OF_TEXT
        self.flops_per_token = 100.0
        self.tokenizer: Any = None
        self.setting = SimpleNamespace(precision="fp32")
        self.seen: list[Tensor] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.nets.parameters(), lr=1e-2)

    def training_step(self, batch: Tensor) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        loss = self.score(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        self.progress = self.progress.after(samples=SAMPLES, tokens=TOKENS)
        self.last = {"loss": loss.detach(), "gradient_norm": torch.tensor(0.5), "rate": 1e-2}
        for logger in self.loggers:
            logger.log_metrics(
                {f"train/{name}": float(value) for name, value in self.last.items()}, self.progress.steps
            )

    def score(self, batch: Tensor) -> Tensor:
        return self.nets["model"](batch).square().mean()

    def validation_step(self, *_: Any) -> None:
        self.seen.append(self.weight.clone())

    def on_validation_epoch_end(self) -> None:
        self.validation = {"bible": 1.5, "all": 1.25}

    @property
    def weight(self) -> Tensor:
        return self.nets["model"][0].weight.detach()


def fit(
    folder: Path,
    callbacks: Sequence[lightning.Callback],
    steps: int = 6,
    done: int = 0,
    validate: int | None = None,
    prepare: Callable[[Tiny], None] | None = None,
) -> tuple[Tiny, lightning.Trainer]:
    """Train Tiny, altered by `prepare`, from the same seed for so many steps after those done, with a csv log."""
    torch.manual_seed(0)
    first = Progress(done, done * SAMPLES, done * TOKENS)
    total = Progress(done + steps, (done + steps) * SAMPLES, (done + steps) * TOKENS)
    module = Tiny(folder, first, total)
    if prepare is not None:
        prepare(module)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=[Csv(folder, first)],
        callbacks=list(callbacks),
        val_check_interval=validate,
        check_val_every_n_epoch=None if validate else 1,
        limit_val_batches=None if validate else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # of Lightning's own
        trainer.fit(module, Batches(steps), Batches(1))
    return module, trainer


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[Tiny, lightning.Trainer]]:
    """`fit` in a folder of the test's own."""

    def go(*callbacks: lightning.Callback, folder: str = "run", **options: Any) -> tuple[Tiny, lightning.Trainer]:
        return fit(tmp_path / folder, callbacks, **options)

    return go
