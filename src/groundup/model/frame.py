"""What all layers share in one forward pass: positions, rotation and who may see whom; made once, by integers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from groundup.model.positions import angles

if TYPE_CHECKING:
    from groundup.model.cache import Cache
    from groundup.model.config import Decoder as Config


class Frame(NamedTuple):
    """The setting of one forward pass.

    Attributes:
        positions: (T,) or (B, T) int64.
        rotation: cosine and sine of rotary positions, or None.
        mask: bool, which slots each query sees, broadcast to (B, H, T, S); None: causal.
        joined: (B, T) bool, whether a token continues the document of the one before; None: all but the first do.
        slots: in generation, (B, T) int64, where in the cache each token goes; None: to the last of those used.
        used: in generation, how many slots are looked at.
    """

    positions: Tensor
    rotation: tuple[Tensor, Tensor] | None
    mask: Tensor | None
    joined: Tensor | None = None
    slots: Tensor | None = None
    used: int = 0


def window(
    config: Config, tokens_BT: Tensor, documents_BT: Tensor | None, positions_BT: Tensor | None, dtype: torch.dtype
) -> Frame:
    """The frame of whole windows, as in training.

    Args:
        config: the network.
        tokens_BT: gives shape and device.
        documents_BT: number of each token's document: attention stays within; None: one document a row.
        positions_BT: position of each token; None: 0, 1, ... in every row.
        dtype: of the network's parameters.
    """
    T = tokens_BT.shape[1]
    positions = torch.arange(T, device=tokens_BT.device) if positions_BT is None else positions_BT
    mask = joined = None
    if documents_BT is not None:
        mask = (documents_BT[:, None, :, None] == documents_BT[:, None, None, :]).tril()
        if config.shift:
            joined = torch.zeros_like(documents_BT, dtype=torch.bool)
            joined[:, 1:] = documents_BT[:, 1:] == documents_BT[:, :-1]
    return Frame(positions, _rotation(config, positions, dtype), mask, joined)


def pick(x_BTD: Tensor, wanted_BQ: Tensor) -> Tensor:
    """The vectors (B, Q, D) at some positions of each row."""
    return x_BTD.gather(1, wanted_BQ[..., None].expand(-1, -1, x_BTD.shape[2]))


def narrowed(frame: Frame, wanted_BQ: Tensor) -> Frame:
    """The frame of the queries at some positions of each row, over the keys of all."""
    rows_B1 = torch.arange(len(wanted_BQ), device=wanted_BQ.device)[:, None]
    rotation = frame.rotation
    if rotation is not None:
        cosine, sine = (table if table.dim() == 4 else table[rows_B1, wanted_BQ] for table in rotation)
        rotation = (cosine[wanted_BQ], sine[wanted_BQ]) if frame.positions.dim() == 1 else (cosine, sine)
    if frame.mask is None:
        keys_T = torch.arange(frame.positions.shape[-1], device=wanted_BQ.device)
        mask = (keys_T <= wanted_BQ[..., None])[:, None]
    else:
        mask = frame.mask[:, 0][rows_B1, wanted_BQ][:, None]
    return Frame(frame.positions, rotation, mask)


def cached(config: Config, cache: Cache, counts_B: Tensor, T: int, dtype: torch.dtype) -> Frame:
    """The frame of new tokens behind cached ones: a query sees the slots up to its own position.

    Args:
        config: the network.
        cache: the state before the new tokens.
        counts_B: new tokens of each row; the other T - counts are padding on the right.
        T: columns.
        dtype: of the network's parameters.

    Raises:
        ValueError: a row outgrows the cache or the context.
    """
    limit = min(cache.size, config.closed()[1])
    used = int((cache.lengths + counts_B).max())
    if used > limit:
        raise ValueError(f"a row of {used} tokens where there is room for {limit}")
    offsets = torch.arange(T, device=counts_B.device)
    positions_BT = (cache.lengths[:, None] + offsets).clamp(max=limit - 1)
    slots_BT = torch.where(offsets < counts_B[:, None], positions_BT, cache.size)
    mask = torch.arange(used, device=counts_B.device) <= positions_BT[:, None, :, None]
    if cache.rotation is None:
        cache.rotation = _rotation(config, torch.arange(limit, device=counts_B.device), dtype)
    rotation = None if cache.rotation is None else (cache.rotation[0][positions_BT], cache.rotation[1][positions_BT])
    alone = len(counts_B) == 1  # such a row has no padding: its slots are one stretch
    return Frame(positions_BT, rotation, mask, slots=None if alone else slots_BT, used=used)


def following(config: Config, cache: Cache, dtype: torch.dtype) -> Frame:
    """The frame of one new token a row, over all slots of a cache that holds something: no shape depends on how much.

    Args:
        config: the network.
        cache: the state before the new tokens.
        dtype: of the network's parameters.
    """
    positions_B1 = cache.lengths[:, None]
    mask = torch.arange(cache.size, device=positions_B1.device) <= positions_B1[:, None, :, None]
    rotation = None
    if config.positions == "rotary":
        tables = cache.rotation or _rotation(config, torch.arange(cache.size, device=positions_B1.device), dtype)
        assert tables is not None
        rotation = (tables[0][positions_B1], tables[1][positions_B1])
    return Frame(positions_B1, rotation, mask, slots=positions_B1, used=cache.size)


def branched(config: Config, branches_BT: Tensor, positions_BT: Tensor, dtype: torch.dtype) -> Frame:
    """The frame of rows that hold one beginning and several ways to go on from it, side by side.

    Args:
        config: the network.
        branches_BT: 0 for the beginning, else the number of a token's branch: it sees the beginning and its own
            branch, up to itself.
        positions_BT: position of each token; branches all count on from the beginning.
        dtype: of the network's parameters.

    Raises:
        ValueError: the network takes up a share of the token before, which here may be another branch's.
    """
    if config.shift:
        raise ValueError("a network that shifts tokens reads no branches")
    seen_BT, own_BT = branches_BT[:, None, None, :], branches_BT[:, None, :, None]
    mask = ((seen_BT == 0) | (seen_BT == own_BT)).tril()
    return Frame(positions_BT, _rotation(config, positions_BT, dtype), mask)


def _rotation(config: Config, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    if config.positions != "rotary":
        return None
    return angles(positions, config.channels, config.rope_base, torch.promote_types(dtype, torch.float32))
