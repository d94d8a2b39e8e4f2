"""Weights and optimizer state that DeepSpeed's ZeRO cut, by the plain names of whole parameters; no files here.

Parameters are put together one at a time, and each is kept whole on the host of one rank, the next one's on the next
rank's: so a rank needs room for its share and one parameter more. What is told apart by parameter here, any other
layout reads, and any stage reads any other's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import deepspeed
import torch
from torch import Tensor, distributed, nn

Kinds = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of each of the optimizer's tensors in a checkpoint, as `<parameter>/<what>`."""


class Owned(NamedTuple):
    """A parameter.

    Attributes:
        name: in its nets.
        parameter: as DeepSpeed has it.
        shape: of it as a whole.
        owner: the rank that keeps it for a checkpoint.
        mine: whether that is this rank.
    """

    name: str
    parameter: Any
    shape: torch.Size
    owner: int
    mine: bool


def owned(nets: nn.Module) -> Iterator[Owned]:
    """All parameters in their order."""
    world, rank = distributed.get_world_size(), distributed.get_rank()
    for number, (name, parameter) in enumerate(nets.named_parameters()):
        shape = torch.Size(getattr(parameter, "ds_shape", parameter.shape))
        yield Owned(name, parameter, shape, number % world, number % world == rank)


def net_tensors(nets: nn.Module) -> dict[str, Tensor]:
    """Weights by name, of those that are cut this rank's share; buffers, and weights that are whole, on every rank."""
    found: dict[str, Tensor] = {}
    for name, parameter, _, _, mine in owned(nets):
        if not _is_cut(parameter):
            found[name] = parameter.detach()
            continue
        with deepspeed.zero.GatheredParameters([parameter]):
            if mine:
                found[name] = parameter.detach().to("cpu", copy=True)
    return found | _buffers(nets)


def optimizer_tensors(nets: nn.Module, zero: Any) -> dict[str, Tensor]:
    """This rank's share of the optimizer's state, as `<parameter>/<what>`.

    Args:
        nets: that it moves.
        zero: DeepSpeed's optimizer around the run's.
    """
    rows, found = _rows(zero), {}
    for name, parameter, shape, _, mine in owned(nets):
        row = rows.get(parameter)
        if row is None:  # frozen
            continue
        for key, value in zero.optimizer.state.get(row, {}).items():
            cut = isinstance(value, Tensor) and value.shape == row.shape
            whole = _whole(_place(zero, parameter, shape), value, shape) if cut else torch.as_tensor(value)
            if mine:
                found[f"{name}/{key}"] = whole.detach().to("cpu", copy=True)
    return found


def net_room(nets: nn.Module) -> dict[str, Tensor]:
    """What is to be filled with weights by name: tensors for this rank's share of those that are cut, else these."""
    found: dict[str, Tensor] = {}
    for name, parameter, shape, _, mine in owned(nets):
        if not _is_cut(parameter):
            found[name] = parameter.detach()
        elif mine:
            found[name] = torch.empty(shape, dtype=parameter.dtype)
    return found | _buffers(nets)


def optimizer_room(nets: nn.Module, kinds: Kinds) -> dict[str, Tensor]:
    """Tensors for this rank's share of the optimizer's state."""
    mine = {entry.name for entry in owned(nets) if entry.mine}
    return {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in kinds.items() if _owner(name) in mine}


def elsewhere(nets: nn.Module) -> dict[str, torch.Size]:
    """Shapes of the weights of which other ranks keep a whole and this one does not."""
    return {name: shape for name, parameter, shape, _, mine in owned(nets) if _is_cut(parameter) and not mine}


@torch.no_grad()
def set_all(
    nets: nn.Module, zero: Any, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], kinds: Kinds
) -> None:
    """Give nets and optimizer what was read: each rank its share of all, which it has from the owners.

    Args:
        nets: of which what is not cut is filled already.
        zero: DeepSpeed's optimizer around the run's.
        weights: filled, as `net_room` gave them.
        optimizer: filled, as `optimizer_room` gave it.
        kinds: of all ranks' tensors of the optimizer.
    """
    by_owner: dict[str, list[str]] = {}
    for name in kinds:
        by_owner.setdefault(_owner(name), []).append(name)
    rows = _rows(zero)
    zero.optimizer.state.clear()
    for name, parameter, shape, owner, mine in owned(nets):
        if _is_cut(parameter):
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=owner):
                if mine:
                    parameter.copy_(weights[name])
        row = rows.get(parameter)
        if row is None:
            continue
        for saved in by_owner.get(name, ()):
            size, dtype = kinds[saved]
            whole = (optimizer[saved] if mine else torch.empty(size, dtype=dtype)).to(_device())
            distributed.broadcast(whole, owner)
            _set(zero, parameter, row, saved.rpartition("/")[2], whole, per_number=whole.shape == shape)
    zero.refresh_fp32_params()


class Place(NamedTuple):
    """Where this rank's part of a parameter stands.

    Attributes:
        row: its first number in the row of its group.
        whole: its first number in the parameter, flattened.
        length: numbers.
    """

    row: int
    whole: int
    length: int


def _place(zero: Any, parameter: Any, shape: torch.Size) -> Place:
    """This rank's part, which may be empty."""
    if _is_cut(parameter):
        _, row, each = zero.grad_position[zero.get_param_id(parameter)]
        first = distributed.get_rank() * each
        return Place(row, first, max(0, min(each, shape.numel() - first)))
    mapping = parameter._hp_mapping
    if mapping is None:
        return Place(0, 0, 0)
    return Place(
        mapping.hp_fragment_address.start, mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
    )


def _whole(place: Place, row: Tensor, shape: torch.Size) -> Tensor:
    """What stands in all ranks' rows of a parameter."""
    flat = torch.zeros(shape.numel(), dtype=row.dtype, device=_device())
    if place.length:
        flat.narrow(0, place.whole, place.length).copy_(row.narrow(0, place.row, place.length))
    distributed.all_reduce(flat)  # of what all but one rank have zeros for
    return flat.view(shape)


def _set(zero: Any, parameter: Any, row: Tensor, key: str, whole: Tensor, *, per_number: bool) -> None:
    """Give the optimizer this rank's part of one of a parameter's tensors, in the row of its group."""
    state = zero.optimizer.state[row]
    if not per_number:
        fused = any(group.get("fused") for group in zero.optimizer.param_groups)
        state[key] = whole.to(row.device if fused else "cpu")
        return
    if key not in state:
        state[key] = torch.zeros_like(row, dtype=whole.dtype, requires_grad=False)
    place = _place(zero, parameter, whole.shape)
    if place.length:
        part = whole.flatten().narrow(0, place.whole, place.length)
        state[key].narrow(0, place.row, place.length).copy_(part)


def _device() -> torch.device:
    return torch.device(deepspeed.get_accelerator().current_device_name())


def _rows(zero: Any) -> dict[Any, Tensor]:
    """The row of numbers, of those that the run's optimizer moves on this rank, in which a parameter's part stands."""
    third = hasattr(zero, "fp16_groups")
    groups = zero.fp16_groups if third else zero.bit16_groups
    rows = zero.fp32_partitioned_groups_flat if third else zero.single_partition_of_fp32_groups
    return {parameter: row for group, row in zip(groups, rows, strict=True) for parameter in group}


def _is_cut(parameter: Any) -> bool:
    return hasattr(parameter, "ds_id")


def _owner(name: str) -> str:
    return name.rpartition("/")[0]


def _buffers(nets: nn.Module) -> dict[str, Tensor]:
    """Those that are saved."""
    parameters = {name for name, _ in nets.named_parameters(remove_duplicate=False)}
    return {name: tensor for name, tensor in nets.state_dict().items() if name not in parameters}
