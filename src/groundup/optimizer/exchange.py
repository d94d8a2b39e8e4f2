"""Work on whole matrices that are cut over ranks, each rank at some of them; what the work is, is not known here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed

from groundup.model.parts import chunk_lengths, cut, cut_along

Work = Callable[[list[Tensor]], list[Tensor]]


def on_whole(like: list[Tensor], parts: list[Tensor], work: Work) -> list[Tensor]:
    """What `work` makes of whole matrices, as parts again.

    Matrix i is put together by rank i modulo their number, worked on there, and sent back in parts: every number
    travels twice and no work is done twice (but by copies of these ranks). What is cut in more than one way at once
    is put together by all.

    Args:
        like: parameters; those that are cut are so over the same ranks.
        parts: this rank's part of a matrix for each of them.
        work: from whole matrices to as many of the same shapes; it may be given none of them.
    """
    cuts = [cut_along(parameter) for parameter in like]
    if not cuts[0]:
        return work(parts)
    if len(cuts[0]) > 1:
        made = work([_together(parameter, part) for parameter, part in zip(like, parts, strict=True)])
        return [cut(whole, parameter) for whole, parameter in zip(made, like, strict=True)]
    group, dimensions = cuts[0][0][0], [each[0][1] for each in cuts]
    ways, rank = group.size(), distributed.get_rank(group)
    home, device = parts[0].device, _device(like[0])  # offloaded parts meet on the device
    shapes = [_shapes(p.shape, d, ways) for p, d in zip(like, dimensions, strict=True)]
    owners = [range(owner, len(like), ways) for owner in range(ways)]
    sent = [[parts[i].to(device) for i in owner] for owner in owners]
    mine = owners[rank]
    empty = parts[0].new_empty(0, device=device)
    came = _swap(sent, [[shapes[i][r] for i in mine] for r in range(ways)], empty, group)
    whole = [torch.cat([pieces[j] for pieces in came], dim=dimensions[i]) for j, i in enumerate(mine)]
    made = work(whole) if whole else []
    cut_up = [
        torch.split(one, [shape[dimensions[i]] for shape in shapes[i]], dimensions[i])
        for i, one in zip(mine, made, strict=True)
    ]
    back = [[pieces[r] for pieces in cut_up] for r in range(ways)]
    returned = _swap(back, [[shapes[i][rank] for i in owner] for owner in owners], empty, group)
    found = list(parts)
    for owner, pieces in zip(owners, returned, strict=True):
        for i, piece in zip(owner, pieces, strict=True):
            found[i] = piece.to(home)
    return found


def _shapes(shape: torch.Size, dimension: int, ways: int) -> list[list[int]]:
    """The shape of each rank's part."""
    lengths = chunk_lengths(shape[dimension], ways)
    return [[*shape[:dimension], length, *shape[dimension + 1 :]] for length in lengths]


def _swap(
    sent: list[list[Tensor]], shapes: list[list[list[int]]], empty: Tensor, group: distributed.ProcessGroup
) -> list[list[Tensor]]:
    """Send a list of tensors, like `empty`, to each rank; what comes from each has the shapes given for it."""
    flat = [torch.cat([empty, *(tensor.flatten() for tensor in each)]) for each in sent]
    lengths = [[torch.Size(shape).numel() for shape in each] for each in shapes]
    room = empty.new_empty(sum(map(sum, lengths)))
    distributed.all_to_all_single(room, torch.cat(flat), list(map(sum, lengths)), list(map(len, flat)), group=group)
    pieces = torch.split(room, list(map(sum, lengths)))
    return [
        [one.view(shape) for one, shape in zip(torch.split(piece, sizes), each, strict=True)]
        for each, sizes, piece in zip(shapes, lengths, pieces, strict=True)
    ]


def _together(parameter: Tensor, part: Tensor) -> Tensor:
    """The whole matrix on every rank."""
    spread: Any = parameter
    laid: Any = type(spread).from_local(
        part, spread.device_mesh, spread.placements, run_check=False, shape=spread.shape, stride=spread.stride()
    )
    whole: Tensor = laid.full_tensor()
    return whole


def _device(parameter: Tensor) -> torch.device:
    kind = parameter.device_mesh.device_type  # type: ignore[attr-defined]  # it is cut
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
