"""From a checkpoint to a model folder: config, tokenizer and weights that load without Lightning."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.callback.checkpoint import CALLBACK
from groundup.callback.tensors import read_all
from groundup.core.files import storage_error
from groundup.model import task_head
from groundup.model.load import save
from groundup.model.task import Task
from groundup.objective.state import NETS, OPTIMIZER


def export(checkpoint: Path, model: Any, tokenizer: Path, folder: Path) -> None:
    """Write `model.json`, `weights.safetensors` and `tokenizer/` to a folder.

    The weights are the averaged ones where a callback kept an average, else the trained ones.

    Args:
        checkpoint: a verified `step-N` folder.
        model: config of the net.
        tokenizer: the folder it was saved in.
        folder: where to write; what stands there is replaced file by file.

    Raises:
        StorageError: the folder cannot be written.
    """
    weights = weights_of(checkpoint)
    with torch.device("meta"):
        net = model.build()
    net.load_state_dict(weights, strict=True, assign=True)
    if hasattr(model, "init_from"):
        model = replace(model, init_from=None, init_hash=None)  # where it began is the run's story
    save(net, model, folder)
    if tokenizer.resolve() != (folder / "tokenizer").resolve():
        try:
            shutil.copytree(tokenizer, folder / "tokenizer", dirs_exist_ok=True)
        except OSError as error:
            raise storage_error(folder / "tokenizer", error) from error


def export_head(checkpoint: Path, task: Task, folder: Path) -> None:
    """Write the head of a task beside the network; arguments and errors as for `export`."""
    task_head.save(task, weights_of(checkpoint, "task"), folder)


def weights_of(checkpoint: Path, name: str = "model") -> dict[str, Tensor]:
    """The weights of a checkpoint by the net's names: the averaged ones where there are some, else the trained ones.

    Args:
        checkpoint: a verified `step-N` folder.
        name: of the net.
    """
    tensors = {name: value for name, value in read_all(checkpoint).items() if not name.startswith(OPTIMIZER)}
    net, averaged = f"{NETS}{name}.", f"{CALLBACK}ema/{name}."
    weights = {name.removeprefix(net): value for name, value in tensors.items() if name.startswith(net)}
    weights.update({name.removeprefix(averaged): value for name, value in tensors.items() if name.startswith(averaged)})
    return weights
