"""The head of a task: a network's stream to a few numbers, and its files; losses and texts are not its business."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional

from groundup.core.config import to_dict
from groundup.core.errors import CheckpointError, DataError
from groundup.core.files import atomic_json, atomic_write, checksum, read_json
from groundup.model.frame import pick
from groundup.model.load import expect
from groundup.model.parts import put
from groundup.model.task import TASKS, Task

CONFIG = "task.json"
WEIGHTS = "task.safetensors"
REMEDY = "give the folder of a run that was fine-tuned, or restore it from a copy"


class TaskHead(nn.Module):
    """Dropout and a linear map of what stands at one position, or at each (Devlin et al. 2019, sections 4.1 and 4.2).

    Before it comes a linear map with a tanh, BERT's pooler, where the first position is read. Weights begin Gaussian
    with a standard deviation of 0.02, biases at zero.
    """

    def __init__(self, config: Task) -> None:
        super().__init__()
        self.config = config
        self.pool = nn.Linear(config.width, config.width) if config.pooled else None
        self.out = nn.Linear(config.width, config.outputs)
        if not self.out.weight.is_meta:
            self.begin()

    @torch.no_grad()
    def begin(self) -> None:
        """Draw every weight, as a network does; one built on the meta device needs this once it has memory."""
        for name, parameter in self.named_parameters():
            whole = torch.zeros(parameter.shape, dtype=torch.float32, device="cpu")
            put(parameter, whole if name.endswith("bias") else whole.normal_(0.0, 0.02))

    def compile_(self, **options: Any) -> None:
        """It is too small to gain by it."""
        del options

    def forward(self, x_BTD: Tensor, read_B: Tensor) -> Tensor:
        """What is answered: (B, outputs) fp32 at least, for a span (B, T, 2).

        Args:
            x_BTD: the stream.
            read_B: the position of each row that is read; of a span all are.
        """
        read = x_BTD if self.config.task == "span" else pick(x_BTD, read_B[:, None])[:, 0]
        if self.pool is not None:
            read = torch.tanh(self.pool(read))
        answered: Tensor = self.out(functional.dropout(read, self.config.dropout, self.training))
        return answered.to(torch.promote_types(answered.dtype, torch.float32))


def save(config: Task, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write a head beside a network, weights first; each file is replaced at once or not at all.

    Raises:
        StorageError: the folder cannot be written.
    """
    folder = Path(folder)
    atomic_write(folder / WEIGHTS, save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}))
    atomic_json(folder / CONFIG, {"task": to_dict(config), "weights": checksum(folder / WEIGHTS)})


def load(folder: Path) -> TaskHead:
    """The head of a folder, in eval mode.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    path = Path(folder) / WEIGHTS
    try:
        values = read_json(path.parent / CONFIG)
        config = Task(**values["task"])
        if config.task not in TASKS:
            raise ValueError(f"no task is called {config.task}")
        if checksum(path) != values["weights"]:
            raise CheckpointError(str(path), f"is damaged: its checksum is not that in {CONFIG}", REMEDY)
        with torch.device("meta"):
            head = config.build()
        tensors = load_tensors(path.read_bytes())
    except DataError as error:
        raise CheckpointError(error.where, error.what, REMEDY) from None
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(str(path.parent / CONFIG), f"is damaged ({error!r})", REMEDY) from None
    shapes = {name: tensor.shape for name, tensor in head.state_dict().items()}
    expect({name: tensor.shape for name, tensor in tensors.items()}, shapes, path)
    head.load_state_dict(tensors, strict=True, assign=True)
    return head.eval()
