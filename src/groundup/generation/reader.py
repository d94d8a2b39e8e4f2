"""Rows of tokens read through a network's cache, each once; how the next token is chosen is not known here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from groundup.model.cache import Cache
    from groundup.model.decoder import Decoder


SIZES = 64
"""A compiled step's cache holds a multiple of so many tokens: each size is compiled anew."""


class Reader:
    """A batch of rows, of unequal length, that grow by a token at a time.

    A row longer than the context is read from its last tokens only: at first as many as the context holds, and each
    time the context is full again, half as many, so that there is room to go on. When that happens depends on the
    row's own length alone.

    Args:
        net: the network; it should be in eval mode.
        prompts: ids of each row, at least one.
        tokens: how many may be added to each.
        compile: compile the reading of one more token; the cache's size is then one of few, and rows stay as many.
    """

    def __init__(self, net: Decoder, prompts: Sequence[Sequence[int]], tokens: int, compile: bool = False) -> None:
        self.net = net
        self._step: Callable[..., Tensor] | None = torch.compile(net.step, dynamic=False) if compile else None
        self.device = net.trunk.embedding.weight.device
        self.rows = [list(prompt)[-net.context :] for prompt in prompts]
        needed = max(map(len, self.rows)) + tokens
        self.room = min(net.context, -(-needed // SIZES) * SIZES if compile else needed)
        self.cache = net.new_cache(len(self.rows), self.room)

    def start(self) -> Tensor:
        """Read the prompts; logits (B, V) of what follows."""
        return self._read(self.rows, self.cache)

    def add(self, ids: Sequence[int]) -> Tensor:
        """Read one more token of each row; logits (B, V) of what follows."""
        full = [number for number, length in enumerate(self.cache.lengths.tolist()) if length == self.room]
        for row, new in zip(self.rows, ids, strict=True):
            row.append(new)
        for number in full:
            del self.rows[number][: -max(1, self.net.context // 2)]
        if not full:
            return self._next(ids)
        again = self.net.new_cache(len(full), self.room)
        logits_of_full = self._read([self.rows[number] for number in full], again)
        numbers = torch.tensor(full, device=self.device)
        self.cache.lengths[numbers] = 0  # these rows take a token like the others, and are replaced
        logits_BV = self._next(ids)
        self.cache.put(numbers, again)
        logits_BV[numbers] = logits_of_full
        return logits_BV

    def keep(self, numbers: Sequence[int]) -> None:
        """Go on with these rows only, in this order; a number that comes twice makes two rows of one."""
        self.rows = [list(self.rows[number]) for number in numbers]
        self.cache.keep(torch.tensor(numbers, device=self.device))

    @torch.no_grad()
    def _next(self, ids: Sequence[int]) -> Tensor:
        if self._step is None:
            return self._read([[new] for new in ids], self.cache)
        return self._step(torch.tensor(ids, device=self.device), self.cache)

    @torch.no_grad()
    def _read(self, rows: Sequence[Sequence[int]], cache: Cache) -> Tensor:
        longest = max(map(len, rows))
        tokens_BT = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        return self.net.decode(tokens_BT, cache, torch.tensor([len(row) for row in rows], device=self.device))
