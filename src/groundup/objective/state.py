"""What a checkpoint holds of an objective, as plain tensors under plain names; files are not its business."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from groundup.core.errors import CheckpointError

NETS = "nets/"
OPTIMIZER = "optimizer/"


def net_tensors(nets: nn.Module) -> dict[str, Tensor]:
    """Every parameter once (tied ones under their first name) and every persistent buffer."""
    parameters = dict(nets.named_parameters())
    tied = {name for name, _ in nets.named_parameters(remove_duplicate=False)} - set(parameters)
    return {NETS + name: tensor.detach() for name, tensor in nets.state_dict().items() if name not in tied}


def optimizer_tensors(nets: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter name: `optimizer/<parameter>/<what>`.

    Hyperparameters are left out on purpose: the config states them, and a checkpoint that silently brought
    old ones back has cost others dearly (OPT's betas).
    """
    found: dict[str, Tensor] = {}
    for name, parameter in nets.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{OPTIMIZER}{name}/{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return found


def expect(shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], at: str) -> None:
    """Check that a checkpoint's nets are these nets.

    Args:
        shapes: of all that is saved, by name.
        wanted: of the nets, on all ranks together.
        at: the checkpoint.

    Raises:
        CheckpointError: naming the first tensor that is missing, unknown or of another shape.
    """
    remedy = "give the checkpoint of this model, or the model of this checkpoint"
    names = {name for name in shapes if name.startswith(NETS)}
    for name in sorted(names ^ set(wanted)):
        side = "has no" if name in wanted else "has a"
        raise CheckpointError(at, f"is another model's: it {side} {name.removeprefix(NETS)}", remedy)
    for name, shape in wanted.items():
        if shapes[name] != shape:
            what = f"is another model's: {name.removeprefix(NETS)} is {shapes[name]} there, {shape} here"
            raise CheckpointError(at, what, remedy)


def optimizer_room(
    nets: nn.Module,
    optimizer: torch.optim.Optimizer,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, torch.dtype],
) -> dict[str, Tensor]:
    """Empty tensors for the saved optimizer state of these nets, laid out like the parameter where it has its shape.

    All stand on the parameter's device but the step counts of optimizers that are not fused: torch keeps those
    on the CPU, so as not to wait for the device. Nothing is read for groups that begin `anew`.
    """
    parameters = dict(nets.named_parameters())
    fused = {parameter for group in optimizer.param_groups if group.get("fused") for parameter in group["params"]}
    anew = {parameter for group in optimizer.param_groups if group.get("anew") for parameter in group["params"]}
    room: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if not name.startswith(OPTIMIZER):
            continue
        owner, _, key = name.removeprefix(OPTIMIZER).rpartition("/")
        if owner not in parameters or parameters[owner] in anew:  # another rank's, or another rule's
            continue
        parameter = parameters[owner]
        if shape == tuple(parameter.shape) and shape:
            room[name] = torch.empty_like(parameter, dtype=dtypes[name], requires_grad=False)
        else:
            stays = key == "step" and parameter not in fused
            room[name] = torch.empty(shape, dtype=dtypes[name], device="cpu" if stays else parameter.device)
    return room


def set_optimizer(nets: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimizer the state read from a checkpoint."""
    parameters = dict(nets.named_parameters())
    state: dict[Tensor, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        owner, _, key = name.removeprefix(OPTIMIZER).rpartition("/")
        state.setdefault(parameters[owner], {})[key] = tensor
    optimizer.state.clear()
    optimizer.state.update(state)
