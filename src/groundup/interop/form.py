"""How tensors of theirs are made of ours and back, no number changed; what the tensors mean is not known here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groundup.model.options import Transformer


@dataclass(frozen=True)
class Form:
    """The shape in which one or several of our tensors (outputs first) are one of theirs.

    Attributes:
        by_head: queries, keys and values of a head stand together, then those of the next; else one follows the other.
        transposed: matrices have inputs first.
        order: of each channel of a head of theirs, the channel of ours.
        padding: rows at the start that are never read.
        row: a vector is a matrix of one row.
    """

    by_head: bool = False
    transposed: bool = False
    order: Callable[[Transformer], Tensor] | None = None
    padding: int = 0
    row: bool = False

    def theirs(self, parts: Sequence[Tensor], config: Transformer) -> Tensor:
        """One tensor of theirs, from ours."""
        if self.by_head:
            whole = torch.stack([_split(part, config.heads) for part in parts], dim=1).flatten(0, 2)
        else:
            whole = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
        if self.order is not None:
            whole = _reordered(whole, self.order(config))
        if self.row:
            whole = whole[None]
        if self.padding:
            whole = torch.cat((whole.new_zeros(self.padding, *whole.shape[1:]), whole))
        return (whole.T if self.transposed and whole.dim() == 2 else whole).contiguous()

    def ours(self, whole: Tensor, rows: Sequence[int], config: Transformer) -> list[Tensor]:
        """Our tensors, from theirs; of another number of rows if theirs has another.

        Args:
            whole: of theirs.
            rows: how many each of ours should have.
            config: the network.
        """
        if self.transposed and whole.dim() == 2:
            whole = whole.T
        whole = whole.flatten() if self.row else whole[self.padding :]
        if self.order is not None and len(whole) == sum(rows):
            whole = _reordered(whole, self.order(config).argsort())
        if len(rows) == 1 or len(whole) != sum(rows):
            return [whole.contiguous()] * len(rows)
        if self.by_head:
            heads = whole.reshape(config.heads, len(rows), -1, *whole.shape[1:])
            return [part.flatten(0, 1).contiguous() for part in heads.unbind(1)]
        return [part.contiguous() for part in torch.split(whole, list(rows))]


PLAIN = Form()


def swapped_halves(config: Transformer) -> Tensor:
    """The order for a turn the other way round: one of (a, b) by -t is one of (b, a) by t."""
    return torch.arange(config.channels).roll(config.channels // 2)


def side_by_side(config: Transformer) -> Tensor:
    """The order for pairs of turned channels that stand side by side, instead of i with i + R/2 (GPT-J)."""
    paired = torch.arange(config.rotated).view(2, -1).T.flatten()
    return torch.cat((paired, torch.arange(config.rotated, config.channels)))


def _reordered(whole: Tensor, order_C: Tensor) -> Tensor:
    """The channels of every head in another order."""
    return _split(whole, len(whole) // len(order_C))[:, order_C].flatten(0, 1)


def _split(whole: Tensor, heads: int) -> Tensor:
    """The rows of each head apart."""
    return whole.reshape(heads, -1, *whole.shape[1:])
