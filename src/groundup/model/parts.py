"""The part of a tensor that this rank holds where nets are split over ranks; who splits them, and why, is not known.

A split tensor is torch's DTensor, told by its placements: importing the class would cost every start half a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def is_split(tensor: Tensor) -> bool:
    """Whether ranks may hold different parts of it."""
    return hasattr(tensor, "placements")


@torch.no_grad()
def own(tensor: Tensor) -> Tensor:
    """This rank's part, in the same memory; a tensor that is not split is its own part."""
    spread: Any = tensor
    part: Tensor = spread.to_local() if is_split(tensor) else tensor
    return part


def cut(whole: Tensor, like: Tensor) -> Tensor:
    """The part of `whole` that this rank holds of a tensor split like `like`, as a view of it.

    What is cut along a dimension twice was cut first by what stands last in the mesh: torch then calls the other
    placement strided. Parts are as even as torch.chunk makes them, and the last ones may be empty.
    """
    if not is_split(like):
        return whole
    spread: Any = like
    place = spread.device_mesh.get_coordinate()
    cuts = [(i, p) for i, p in enumerate(spread.placements) if hasattr(p, "dim")]
    for i, placement in sorted(cuts, key=lambda cut: hasattr(cut[1], "split_factor")):
        lengths = chunk_lengths(whole.shape[placement.dim], spread.device_mesh.size(i))
        whole = whole.narrow(placement.dim, sum(lengths[: place[i]]), lengths[place[i]])
    return whole


@torch.no_grad()
def put(target: Tensor, whole: Tensor) -> None:
    """Give a tensor, or this rank's part of it, the values of a whole one."""
    own(target).copy_(cut(whole, target))


def chunk_lengths(length: int, chunks: int) -> list[int]:
    """How long each of torch.chunk's parts is, with the empty ones that it leaves out."""
    each = -(-length // chunks)
    return [max(0, min(each, length - i * each)) for i in range(chunks)]


def held(tensors: Iterable[Tensor]) -> int:
    """Bytes of this rank's parts."""
    return sum(part.numel() * part.element_size() for part in map(own, tensors))


def cut_along(tensor: Tensor) -> Sequence[tuple[Any, int]]:
    """The process groups over which a tensor is cut, each with the dimension it is cut along; none: it is whole."""
    spread: Any = tensor
    placements = spread.placements if is_split(tensor) else ()
    return [(spread.device_mesh.get_group(i), p.dim) for i, p in enumerate(placements) if hasattr(p, "dim")]
