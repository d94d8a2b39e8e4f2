"""What tests run as ranks: trainings, one after the other in one process group.

trained_ranks.py CASES: reads overrides from the file, and trains so in turn. `objective=limited` has no memory for many
rows.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from groundup.core import ranks
from groundup.core.config import compose, option, schema
from groundup.data.step import Batch
from groundup.objective import pretrain
from groundup.objective.base import Setting
from groundup.objective.config import Pretrain
from groundup.trainer import micro_batch
from groundup.verb.train import Train

ROOT = Path(__file__).resolve().parents[2]
composed = partial(compose.composed, ROOT / "conf")


@schema("objective", "limited")
class Limited(Pretrain):
    """Runs out of memory above so many rows, on each further rank above as many fewer."""

    limit: int = option(1, "rows that fit", at_least=0)
    fewer: int = option(0, "rows that fit less on each further rank", at_least=0)

    def build(self, model: Any, optimizer: Any, schedule: Any, setting: Setting) -> Any:
        return Short(self, model, optimizer, schedule, setting)


class Short(pretrain.Pretrain):
    def forward(self, batch: Batch) -> Any:
        if len(batch.tokens_BT) > self.config.limit - self.config.fewer * ranks.rank():
            raise torch.OutOfMemoryError("no room")
        return super().forward(batch)


def train(cases: list[list[str]]) -> None:
    """One run after the other in this process."""
    for overrides in cases:
        config: Train = composed("train", *overrides)
        config.check()
        config.run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    micro_batch.fastest = micro_batch.most  # as on a GPU: what is found then depends on no clock
    train(json.loads(Path(sys.argv[1]).read_text()))
    torch.distributed.destroy_process_group()
