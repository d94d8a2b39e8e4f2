"""From a checkpoint to a model folder: config, tokenizer and weights that load without Lightning."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.callback.contents import CALLBACK
from groundup.callback.tensors import Saved, read_into
from groundup.core.files import storage_error
from groundup.model import task_head
from groundup.model.load import expect, write
from groundup.model.task import Task
from groundup.objective.state import NETS


def export(checkpoint: Path, model: Any, tokenizer: Path, folder: Path) -> None:
    """Write `model.json`, `weights.safetensors` and `tokenizer/` to a folder.

    The weights are the averaged ones where a callback kept an average, else the trained ones; memory holds one at a
    time.

    Args:
        checkpoint: a verified `step-N` folder.
        model: config of the net.
        tokenizer: the folder it was saved in.
        folder: where to write; what stands there is replaced file by file.

    Raises:
        StorageError: the folder cannot be written.
    """
    tensors = Saved(checkpoint)
    saved = _saved(tensors)
    kinds = {name: (dtype, torch.Size(shape)) for name, (_, shape, dtype) in saved.items()}
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in model.build().state_dict().items()}
    expect({name: shape for name, (_, shape) in kinds.items()}, wanted, checkpoint)
    if hasattr(model, "init_from"):
        model = replace(model, init_from=None, init_hash=None)  # where it began is the run's story

    def read(name: str) -> Tensor:
        return tensors.read([saved[name][0]])[saved[name][0]]

    write(model, folder, kinds, read)
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
    tensors = Saved(checkpoint)
    saved = {key: there for key, (there, _, _) in _saved(tensors, name).items()}
    found = tensors.read(saved.values())
    return {key: found[there] for key, there in saved.items()}


def fill_from(checkpoint: Path, net: Any, alone: bool) -> None:
    """Give a net, which may be split over ranks, the weights that `weights_of` gives; each rank reads its parts.

    Args:
        checkpoint: a verified `step-N` folder.
        net: the one called `model` there.
        alone: this is the only process; else all call this together.

    Raises:
        CheckpointError: the weights are another net's.
    """
    saved, targets = _saved(Saved(checkpoint)), net.state_dict()
    found = {name: torch.Size(shape) for name, (_, shape, _) in saved.items()}
    expect(found, {name: target.shape for name, target in targets.items()}, checkpoint)
    read_into({saved[name][0]: target for name, target in targets.items()}, checkpoint, alone)


def _saved(tensors: Saved, name: str = "model") -> dict[str, tuple[str, tuple[int, ...], torch.dtype]]:
    """For each of a net's names that of the tensor in the checkpoint, with its shape and dtype."""
    found = {}
    for prefix in (f"{NETS}{name}.", f"{CALLBACK}ema/{name}."):  # what comes later wins
        for there, (shape, dtype) in tensors.kinds.items():
            if there.startswith(prefix):
                found[there.removeprefix(prefix)] = (there, shape, dtype)
    return found
