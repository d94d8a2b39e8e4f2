"""Rows of tokens read through a network's cache, each once; how the next token is chosen is not known here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from groundup.model.cache import Cache
    from groundup.model.decoder import Decoder
    from groundup.model.encoder_decoder import EncoderDecoder


SIZES = 32
"""A compiled step's cache holds a multiple of so many tokens: each size is compiled anew."""


class Reader:
    """A batch of rows, of unequal length, that grow by a token at a time, or of what is written to as many sources.

    A row longer than the context is read from its last tokens only: at first as many as the context holds, and each
    time the context is full again, half as many, so that there is room to go on. When that happens depends on the
    row's own length alone.

    Args:
        net: the network; it should be in eval mode.
        prompts: ids of each row, at least one; of an encoder-decoder, ids of each source.
        tokens: how many may be added to each.
        compile: compile the reading of one more token; the cache's size is then one of few, and rows stay as many.
        start: of an encoder-decoder: what is written begins with this id.
    """

    def __init__(
        self,
        net: Decoder,
        prompts: Sequence[Sequence[int]],
        tokens: int,
        compile: bool = False,
        start: int | None = None,
    ) -> None:
        self.net = net
        self._step: Callable[..., Tensor] | None = torch.compile(net.step, dynamic=False) if compile else None
        self.device = net.trunk.embedding.weight.device
        given = [list(prompt)[-net.context :] for prompt in prompts]
        self.rows = given if start is None else [[start] for _ in given]
        needed = max(map(len, self.rows)) + tokens
        self.room = min(net.context, -(-needed // SIZES) * SIZES if compile else needed)
        self.cache = net.new_cache(len(self.rows), self.room)
        if start is not None:
            self._remember(cast("EncoderDecoder", net), given)

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
        again, numbers = self.net.new_cache(len(full), self.room), torch.tensor(full, device=self.device)
        again.remember(self.cache, numbers)
        logits_of_full = self._read([self.rows[number] for number in full], again)
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
    def _remember(self, net: EncoderDecoder, sources: list[list[int]]) -> None:
        source_BS, counts_B = padded(sources, self.device)
        net.read(source_BS, self.cache, counts_B)

    @torch.no_grad()
    def _next(self, ids: Sequence[int]) -> Tensor:
        if self._step is None:
            return self._read([[new] for new in ids], self.cache)
        return self._step(torch.tensor(ids, device=self.device), self.cache)

    @torch.no_grad()
    def _read(self, rows: Sequence[Sequence[int]], cache: Cache) -> Tensor:
        tokens_BT, counts_B = padded(rows, self.device)
        return self.net.decode(tokens_BT, cache, counts_B)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of unequal length as one tensor (B, T), with padding on the right, and their lengths (B,)."""
    longest = max(map(len, rows))
    tokens_BT = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    return tokens_BT, torch.tensor([len(row) for row in rows], device=device)


def source(row: Sequence[int], end: int) -> list[int]:
    """A row of ids as an encoder reads it: `end` stands behind it, as in training, and not before."""
    return [*(row[1:] if row[0] == end else row), end]


def start_of(net: Decoder, end: int) -> int | None:
    """The id with which a text begins that is written to a source; None where texts go on from their prompts."""
    if not net.reads_source:
        return None
    found: int | None = net.config.start
    return end if found is None else found
