"""What the tests run under torchrun: one process of several, which writes what it saw to a folder.

torchrun ... ranks.py FOLDER TASK...
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader

from groundup.core import ranks
from groundup.strategy.config import DDP, Auto

ROWS, WIDTH, STEPS = 8, 6, 3


class Tiny(lightning.LightningModule):
    """A small net trained by hand through the strategy, as objectives are."""

    def __init__(self, rows: int, layers: int = 2, width: int = WIDTH, rate: float = 0.1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.rows, self.rate = rows, rate
        torch.manual_seed(0)
        self.net = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers))).double()
        self.frozen = nn.Linear(width, width).double().requires_grad_(False)
        self.gradients: list[list[torch.Tensor]] = []
        self.norms: list[torch.Tensor] = []
        self.losses: list[torch.Tensor] = []
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.net(x)) - self.frozen(x)

    def training_step(self, batch: torch.Tensor, index: int) -> None:
        del index
        step = int(batch)
        data = torch.randn(ROWS, self.width, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        pieces = [*data.split(self.rows)]
        pieces += [data[:0]] * (-len(pieces) % ranks.world())
        mine = pieces[ranks.rank() :: ranks.world()]
        total = torch.zeros((), dtype=torch.float64)

        def loss(number: int, piece: torch.Tensor) -> torch.Tensor:
            nonlocal total
            assert piece is mine[number]
            value = (self(piece) ** 2).sum() / (ROWS * self.width)
            total = total + value.detach()
            return value

        strategy = self.trainer.strategy
        strategy.forward_backward(mine, loss)
        self.losses.append(strategy.sum_over_ranks(total))
        self.norms.append(strategy.gradient_norm(list(self.parameters())))
        self.gradients.append([p.grad.clone() for p in self.net.parameters()])
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=self.rate)


def fit(module: Tiny, numbers: torch.Tensor | None = None, config: Auto | DDP | None = None) -> Tiny:
    """Train on the steps of these numbers (default 0, 1, 2)."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        strategy=(config or Auto()).build("cpu", 1),
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
    )
    trainer.fit(module, DataLoader(torch.arange(STEPS) if numbers is None else numbers, batch_size=None))
    return module


def seen(module: Tiny) -> dict[str, object]:
    return {
        "gradients": module.gradients,
        "norms": module.norms,
        "losses": module.losses,
        "weights": [p.detach().clone() for p in module.parameters()],
    }


def layouts() -> dict[str, object]:
    """One Trainer after the other in one process, as the segments of a run are."""
    return {f"{ROWS // rows}x{rows}": seen(fit(Tiny(rows))) for rows in (8, 4, 2, 1)}


def alone() -> dict[str, object]:
    """ddp in one process that nothing launched."""
    return {"2x4": seen(fit(Tiny(4), config=DDP())), "world": torch.distributed.get_world_size()}


def repeat() -> dict[str, object]:
    """The same step over and over at rate 0; wide layers, so that gradients fill several buckets."""
    return seen(fit(Tiny(1, layers=4, width=400, rate=0.0), torch.zeros(STEPS)))


if __name__ == "__main__":
    folder, *tasks = sys.argv[1:]
    for task in tasks:
        result = {"layouts": layouts, "repeat": repeat, "alone": alone}[task]()
        torch.save(result, Path(folder) / f"{task}-{ranks.rank()}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
