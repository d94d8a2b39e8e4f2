"""What the tests of meshes run, alone or under torchrun: real trainings, one after the other in one process group.

mesh_runs.py RUNS CASES: reads from the file CASES pairs of a name and overrides, and trains them in turn, each into
RUNS/name; a name that comes again goes on.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.nn import Module

from groundup.core import ranks
from groundup.core.config import compose, schema
from groundup.model.parts import held, is_split
from groundup.verb.train import Train

ROOT = Path(__file__).resolve().parents[2]
composed = partial(compose.composed, ROOT / "conf")


@schema("callback", "witness")
class Witness:
    """Notes the weights a run begins with, whole, and the bytes that this rank holds at its first update."""

    folder: str = ""

    def build(self) -> lightning.Callback:
        return Notes(Path(self.folder))


class Notes(lightning.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder, self.bytes = folder, {}

    def on_fit_start(self, trainer: lightning.Trainer, module: Any) -> None:
        whole = {name: _whole(tensor) for name, tensor in module.nets.state_dict().items()}
        if ranks.rank() == 0:
            torch.save(whole, self.folder.with_suffix(".begun.pt"))
        trainer.optimizers[0].register_step_pre_hook(lambda *_: self.note(module.nets))

    def note(self, nets: Module) -> None:
        parameters = list(nets.parameters())
        self.bytes = {"parameters": held(parameters), "gradients": held(p.grad for p in parameters)}

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        del module
        kept = [value for entry in trainer.optimizers[0].state.values() for value in entry.values() if value.dim()]
        self.bytes["optimizer"] = held(kept)
        self.folder.with_suffix(f".bytes-{ranks.rank()}.json").write_text(json.dumps(self.bytes))


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if is_split(tensor) else tensor.clone()  # type: ignore[operator]


def train(runs: Path, cases: list[tuple[str, list[str]]]) -> None:
    """One run after the other in this process."""
    for name, overrides in cases:
        place = runs / name
        told = [f"callback.witness.folder={place}"] if any("witness" in word for word in overrides) else []
        config: Train = composed("train", *overrides, f"runs={place}", *told)
        config.check()
        config.run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
