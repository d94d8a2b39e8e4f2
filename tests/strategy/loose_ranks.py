"""What the tests of loosely coupled strategies start: one process of several.

loose_ranks.py runs FOLDER       the runs whose configs are in FOLDER/runs.pickle, one after the other
loose_ranks.py counts FOLDER     steps that are counted, then the runs; rank 2 is killed on the way

How the two workers of what is counted meet is said by files, not left to their clocks: neither begins before the
server has heard of both, and whoever is to wait for the other waits for a file of its.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import lightning
import torch
from torch import nn

from groundup.core import ranks
from groundup.core.errors import UserError
from groundup.core.progress import Progress
from groundup.strategy import async_sgd
from groundup.strategy.loose_config import AsyncSGD
from groundup.strategy.reception import Reception
from groundup.verb.train import Train

STEPS, SAMPLES = 24, 2


@dataclass
class Step:
    step: int
    samples: int = SAMPLES
    tokens: int = SAMPLES
    targets: int = SAMPLES
    first_sample: int = 0
    micro_batches: list[int] = field(default_factory=list)


class Steps:
    """Steps by their number; each holds the numbers of its samples."""

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, number: int) -> Step:
        first = number * SAMPLES
        return Step(number, first_sample=first, micro_batches=list(range(first, first + SAMPLES)))

    def __iter__(self):
        return (self[number] for number in range(STEPS))


class Counting(lightning.LightningModule):
    """Its weights end as how often each sample was used: a sample's gradient is minus one in its own place."""

    def __init__(self, name: str, late: int, dies_at: int | None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.used = nn.Parameter(torch.zeros(STEPS * SAMPLES, dtype=torch.float64))
        self.never = nn.Parameter(torch.zeros(3))
        self.progress, self.total = Progress(), Progress(STEPS, STEPS * SAMPLES, STEPS * SAMPLES)
        self.setting, self.folder = SimpleNamespace(log_every=1), Path("counting")
        self.signs = Signs(name)
        self.late, self.dies_at, self.done = late, dies_at, 0
        self.rows: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.firsts: list[int] = []

    def training_step(self, step: Step, index: int) -> None:
        raise AssertionError("the strategy makes the steps")

    def gradients(self, step: Step) -> dict[str, torch.Tensor]:
        self.signs.wait("both have come")
        if ranks.rank() == 1:
            if self.dies_at is not None and self.done == STEPS // 2:
                self.signs.wait("2 dies")
                time.sleep(0.2)  # until its connection is closed
        elif self.done == self.dies_at:
            self.signs.give("2 dies")
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.late and not self.done:
            self.signs.wait(f"1 has done {self.late}")
        self.done += 1
        self.signs.give(f"{ranks.rank()} has done {self.done}")
        self.used.grad = torch.zeros_like(self.used)
        self.used.grad[step.micro_batches] = -1.0
        return {"loss": torch.tensor(float(step.step * SAMPLES))}

    def update(self, step: Step, means: dict[str, torch.Tensor]) -> None:
        assert self.never.grad is None and not step.micro_batches
        self.optimizers(use_pl_optimizer=False).step()
        self.losses.append(float(means["loss"]))
        self.firsts.append(step.first_sample)
        self.progress = self.progress.after(samples=step.samples, tokens=step.tokens)

    def write(self, metrics: dict[str, float]) -> None:
        self.rows.append(metrics)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Signs:
    """Files by which the processes of a run tell each other where they are."""

    def __init__(self, name: str) -> None:
        self.place = Path(sys.argv[2]) / f"{name}-signs"
        self.place.mkdir(exist_ok=True)

    def give(self, sign: str) -> None:
        (self.place / sign).touch()

    def wait(self, sign: str) -> None:
        limit = time.monotonic() + 60
        while not (self.place / sign).exists():
            assert time.monotonic() < limit, f"nobody has said that {sign}"
            time.sleep(0.002)


class Watched(Reception):
    """Gives a sign when both workers have said hello."""

    signs: Signs
    come = 0

    def _greet(self, *hello) -> None:
        super()._greet(*hello)
        self.come += 1
        if self.come == 2:
            self.signs.give("both have come")


def count(name: str, bound: int | None, late: int = 0, dies_at: int | None = None) -> dict[str, object]:
    """Train; rank 2 ends its first step when rank 1 has done so many, and dies after so many of its own."""
    module = Counting(name, late, dies_at)
    async_sgd.Reception = type("Reception", (Watched,), {"signs": module.signs})
    trainer = lightning.Trainer(
        accelerator="cpu",
        strategy=AsyncSGD(staleness=bound, timeout_minutes=1.0).build("cpu", 1),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, Steps())
    assert module.progress == module.total  # a worker is told
    return {"used": module.used.detach(), **{name: getattr(module, name) for name in ("rows", "losses", "firsts")}}


def run(config: Train) -> None:
    """Train as train.py does; one that is asked to stop tells why it ended."""
    config.check()
    if "asks" not in config.callback:
        config.run()
        return
    try:
        config.run()
    except UserError as error:
        (config.folder() / f"ended-{ranks.rank()}").write_text(str(error))


def spied(name: str) -> list[int]:
    """Sizes in bytes of all tensors that are handed to a collective from here on."""
    sizes, real = [], getattr(torch.distributed, name)

    def spy(tensor, *arguments, **options):
        sizes.append(tensor.numel() * tensor.element_size())
        return real(tensor, *arguments, **options)

    setattr(torch.distributed, name, spy)
    return sizes


if __name__ == "__main__":
    task, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    if task == "counts":
        runs = {"bound": (1, 1), "free": (None, 6), "none": (0,), "killed": (4, 0, 1)}
        for name, options in runs.items():
            torch.save(count(name, *options), folder / f"{name}-{ranks.rank()}.pt")
        async_sgd.Reception = Reception
    sizes = spied("all_reduce")
    travelled = []
    for recipe in pickle.loads((folder / "runs.pickle").read_bytes()):
        before = len(sizes)
        run(recipe)
        travelled.append(sum(sizes[before:]))
    (folder / f"travelled-{ranks.rank()}.json").write_text(json.dumps(travelled))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
