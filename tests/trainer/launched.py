"""What the tests run as one rank of several: it compares facts, then trains while one rank is slow.

launched.py FOLDER, launched once per rank; each writes what it saw to FOLDER/<rank>.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import lightning
import torch
from torch import distributed, nn
from torch.utils.data import DataLoader

from groundup.callback.config import Stragglers
from groundup.core import ranks
from groundup.core.errors import ConfigError
from groundup.core.files import atomic_write
from groundup.core.progress import Progress
from groundup.strategy.agreement import agree
from groundup.strategy.config import Auto

SLOW, SECONDS, STEPS, EVERY = 1, 0.02, 12, 4
TIMES = 2.5
"""What the slow rank takes of the time the others took for the same step, however busy the machine is."""


class Steps(lightning.LightningModule):
    """Trains a line by hand; the forward pass of one rank waits for what the others took, and takes longer."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.net = nn.Linear(4, 4)
        self.progress = Progress()
        self.setting = SimpleNamespace(precision="fp32")
        self.begun = 0.0

    def on_train_start(self) -> None:
        strategy = self.trainer.strategy
        note = strategy.on_computed

        def computed() -> None:
            note()
            if ranks.rank() != SLOW:
                atomic_write(self.took(ranks.rank()), str(time.monotonic() - self.begun))

        strategy.on_computed = computed
        self.begun = time.monotonic()

    def took(self, rank: int) -> Path:
        return self.folder / f"{self.progress.steps}-{rank}.txt"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(SECONDS)
        if ranks.rank() == SLOW:
            others = [self.took(rank) for rank in range(ranks.world()) if rank != SLOW]
            while not all(path.exists() for path in others):
                time.sleep(0.002)
            time.sleep(TIMES * max(float(path.read_text()) for path in others))
        return self.net(x)

    def training_step(self, batch: torch.Tensor, index: int) -> None:
        del index
        self.trainer.strategy.forward_backward([batch], lambda _, x: self(x).square().mean())
        self.trainer.strategy.sum_over_ranks(torch.ones(()))
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.step()
        optimizer.zero_grad()
        self.progress = self.progress.after(samples=1, tokens=1)
        self.begun = time.monotonic()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def refused(facts: dict[str, str], details: dict[str, str]) -> str | None:
    try:
        agree(facts, details)
    except ConfigError as error:
        assert error.by_all
        return str(error)
    return None


def main(folder: Path) -> None:
    world = ranks.local_world()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=Auto().build("cpu", world),
        max_epochs=1,
        callbacks=[Stragglers(every=EVERY, factor=1.5).build()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(Steps(folder), DataLoader(torch.ones(STEPS, 4), batch_size=None))
    mine = str(ranks.rank())
    odd = "7" if ranks.rank() == world - 1 else "0"
    seen = {
        "backend": distributed.get_backend(),
        "world": trainer.world_size,
        "same": refused({"seed": "0", "clock": "5"}, {}),
        "seed": refused({"seed": odd, "clock": "5"}, {}),
        "all": refused({"clock": mine}, {}),
        "config": refused({"config": odd, "seed": "0"}, {"model.width": "32", "optimizer.rate": odd}),
    }
    (folder / f"{mine}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
