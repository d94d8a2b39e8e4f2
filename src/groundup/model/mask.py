"""Who sees whom, as one function of row, query and key; what is then done with scores is attention's affair."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask


class Mask(NamedTuple):
    """Whether a query sees a key: `mask(row, head, query, key)`, for single indices or tensors that broadcast.

    It is the `mask_mod` that FlexAttention takes (Dong et al. 2024), and `dense` makes of it the mask that every other
    kernel takes.

    Attributes:
        positions_BT: position of each token, (B or 1, T).
        documents_BT: number of each token's document: none is seen but its own. None: a row is one document.
        branches_BT: 0 for what all branches of a row begin with, else the number of a token's branch: it sees that
            beginning and its own branch. None: there are none.
        window: positions that are seen, up to the query's own; None: all.
        prefix_BT: bool, whether a token is seen by all of its document, also by those before it; None: none is.
        full: all tokens are (encoders).
        sources_BS: documents of the keys, where they are another text's than the queries (cross-attention).
        places_T: where among the keys the queries stand; None: at their own number.
    """

    positions_BT: Tensor  # noqa: N815
    documents_BT: Tensor | None = None  # noqa: N815
    branches_BT: Tensor | None = None  # noqa: N815
    window: int | None = None
    prefix_BT: Tensor | None = None  # noqa: N815
    full: bool = False
    sources_BS: Tensor | None = None  # noqa: N815
    places_T: Tensor | None = None  # noqa: N815

    def __call__(self, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Bool, of the indices' common shape."""
        del head
        if self.places_T is not None:
            query = self.places_T[query]
        seen = (key >= 0) & (query >= 0) if self.full else key <= query
        if self.prefix_BT is not None:
            seen = seen | self.prefix_BT[row, key]
        if self.documents_BT is not None:
            theirs = self.documents_BT if self.sources_BS is None else self.sources_BS
            seen = seen & (self.documents_BT[row, query] == theirs[row, key])
        if self.branches_BT is not None:
            branch = self.branches_BT[row, key]
            seen = seen & ((branch == 0) | (branch == self.branches_BT[row, query]))
        if self.window is not None:
            first = row if len(self.positions_BT) > 1 else torch.zeros_like(row)
            seen = seen & (self.positions_BT[first, query] - self.positions_BT[first, key] < self.window)
        return seen


def blocks(mask: Mask, rows: int, queries: int, keys: int) -> BlockMask:
    """The mask as FlexAttention takes it: which blocks of pairs are hidden, seen, or looked at one by one."""
    return create_block_mask(
        lambda row, head, query, key: mask(row, head, query, key),
        B=rows,
        H=None,
        Q_LEN=queries,
        KV_LEN=keys,
        device=mask.positions_BT.device,
    )


def dense(mask: Mask, rows: int, queries: int, keys: int) -> Tensor:
    """The mask of all pairs, bool, (rows, 1, queries, keys)."""
    device = mask.positions_BT.device
    row = torch.arange(rows, device=device)[:, None, None]
    query = torch.arange(queries, device=device)[:, None]
    key = torch.arange(keys, device=device)
    return mask(row, torch.zeros_like(row), query, key).expand(rows, queries, keys)[:, None]
