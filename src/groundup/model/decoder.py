"""The decoder: tokens in, likelihoods or logits of what follows out; losses, optimizers and text it does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from groundup.model import frame as frames
from groundup.model.block import Block
from groundup.model.cache import Cache
from groundup.model.experts import Routing
from groundup.model.head import IGNORED, PIECE
from groundup.model.net import Net, targeted


class Decoder(Net):
    """A causal transformer (Radford et al. 2019 and what came of it), or a prefix LM, as its config describes."""

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        prefix_BT: Tensor | None = None,
        *,
        with_log_z: bool = False,
        with_routing: bool = False,
    ) -> Any:
        """Likelihoods of targets, or logits.

        Args:
            tokens_BT: ids, (B, T) int64, T at most the context.
            targets_BT: id to be predicted at each position, int64; -100: none.
            documents_BT: number of each token's document; attention stays within it. None: a row is one document.
            positions_BT: position of each token; None: 0, 1, ... in every row.
            prefix_BT: with mask=prefix, whether a token is given, so that all of its document see it; None: none is.
            with_log_z: return the softmax's log-normaliser too.
            with_routing: return how uneven the experts' routers are too (see `groundup.model.experts.router_losses`).

        Returns:
            As `Net.answer`.

        Raises:
            ValueError: the window is longer than the context, or tokens are given to a causal network.
        """
        routing = Routing() if with_routing else None
        x_BTD = self.stream(tokens_BT, documents_BT, positions_BT, prefix_BT, routing)
        return self.answer(x_BTD, targets_BT, with_log_z, routing)

    def stream(
        self,
        tokens_BT: Tensor,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        prefix_BT: Tensor | None = None,
        routing: Routing | None = None,
        places_T: Tensor | None = None,
    ) -> Tensor:
        """What stands at each position behind the last block, (B, T, E); other arguments as for `forward`.

        Args:
            places_T: the positions that are computed here, where others compute the rest; None: all.
        """
        if prefix_BT is not None and self.config.mask != "prefix":
            raise ValueError("a causal network sees nothing ahead; build it with mask=prefix")
        self.expect_room(tokens_BT)
        frame = frames.window(self.config, tokens_BT, documents_BT, positions_BT, self._dtype, prefix_BT, places_T)
        asking_BT = tokens_BT if places_T is None else tokens_BT[:, places_T]
        found: Tensor = self.trunk(asking_BT, frame, routing=routing)
        return found

    def new_cache(
        self,
        batch: int,
        length: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Cache:
        """Room for `batch` rows of up to `length` tokens each (default: the context), empty."""
        weight, attention = self.trunk.embedding.weight, cast(Block, next(iter(self.trunk.blocks.values()))).attention
        room = length or self.context
        return Cache(self.config, attention.groups, batch, room, device or weight.device, dtype or weight.dtype)

    def decode(self, tokens_BT: Tensor, cache: Cache, counts_B: Tensor | None = None) -> Tensor:
        """Read further tokens of each row and return logits (B, V) behind each row's last one; never compiled.

        Args:
            tokens_BT: ids, (B, T); row b's first counts_B[b] are read, the rest is padding on the right.
            cache: from `new_cache`; it is brought forward.
            counts_B: tokens to read in each row, (B,) int64, at least 1; None: T.

        Raises:
            ValueError: a row outgrows the cache or the context.
        """
        B, T = tokens_BT.shape
        counts_B = torch.full_like(cache.lengths, T) if counts_B is None else counts_B
        frame = frames.cached(self.config, cache, counts_B, T, self._dtype)
        with torch.compiler.set_stance("force_eager"):
            x_BTD = self.trunk(tokens_BT, frame, cache, counts_B - 1)
            last_BD = x_BTD[torch.arange(B, device=x_BTD.device), counts_B - 1]
            logits_BV: Tensor = self.head(last_BD, tied=self._tied)
        cache.lengths = cache.lengths + counts_B
        return logits_BV

    def step(self, tokens_B: Tensor, cache: Cache) -> Tensor:
        """Read one further token of each row and return logits (B, V), as `decode` does, to be compiled.

        It looks at all slots of the cache, so that no shape depends on how many are used, and checks no bounds.

        Args:
            tokens_B: ids, (B,).
            cache: with room for one more in each row; it is brought forward.
        """
        frame = frames.following(self.config, cache, self._dtype)
        x_BTD = self.trunk(tokens_B[:, None], frame, cache, torch.zeros_like(cache.lengths))
        logits_BV: Tensor = self.head(x_BTD[:, 0], tied=self._tied)
        cache.lengths = cache.lengths + 1
        return logits_BV

    @torch.no_grad()
    def likelihoods(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        branches_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """How likely targets are and whether they are the likeliest ids; logits are made for them alone.

        Never compiled, since no two calls need be of one shape, and without gradient.

        Args:
            tokens_BT: ids, (B, T) int64; padding stands on the right.
            targets_BT: id to be predicted at each position, int64; -100: none.
            branches_BT: number of each token's branch, 0 for what all branches of its row begin with: a token sees
                that beginning and its own branch. None: a row is one text. See `reads_branches`.
            positions_BT: position of each token, where rows have branches.

        Returns:
            Of the N targets, row by row: negative log-likelihoods in nats, (N,) fp32, and whether no id is likelier,
            (N,) bool.
        """
        with torch.compiler.set_stance("force_eager"):
            has_BT = targets_BT != IGNORED
            if branches_BT is not None and positions_BT is not None:
                frame = frames.branched(self.config, branches_BT, positions_BT, self._dtype)
            else:
                # What stands up to the first target is given.
                given_BT = has_BT.cumsum(dim=1) - has_BT.long() == 0 if self.config.mask == "prefix" else None
                frame = frames.window(self.config, tokens_BT, None, None, self._dtype, given_BT)
            return self.judged(targets_BT, lambda wanted: self.trunk(tokens_BT, frame, wanted_BQ=wanted))

    def judged(self, targets_BT: Tensor, stream: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """What `likelihoods` returns, of the stream (B, Q, D) at the positions (B, Q) that are wanted."""
        wanted_BQ, has_BQ = targeted(targets_BT)
        x_ND, targets_N = stream(wanted_BQ)[has_BQ], targets_BT.gather(1, wanted_BQ)[has_BQ]
        rows = max(1, PIECE.get(x_ND.device.type, PIECE["cuda"]) // self.vocabulary)
        nll, greedy = [], []
        for start in range(0, max(1, len(x_ND)), rows):
            logits, targets = (
                self.head(x_ND[start : start + rows], tied=self._tied).float(),
                targets_N[start : start + rows],
            )
            nll.append(functional.cross_entropy(logits, targets, reduction="none"))
            greedy.append(logits.argmax(dim=-1) == targets)
        return torch.cat(nll), torch.cat(greedy)

    @property
    def reads_branches(self) -> bool:
        """Whether `likelihoods` takes rows with branches."""
        return not self.config.shift and self.config.mask == "causal"
