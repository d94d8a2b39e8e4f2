"""The encoder: tokens in, likelihoods or logits of tokens where they stand out, or its stream; losses it knows none."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from groundup.model import frame as frames
from groundup.model.experts import Routing
from groundup.model.frame import pick
from groundup.model.net import Net, targeted


class Encoder(Net):
    """A transformer in which every position sees all of its document (Devlin et al. 2019, BERT)."""

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        *,
        with_log_z: bool = False,
        with_routing: bool = False,
    ) -> Any:
        """Likelihoods of targets, or logits; the head then reads the positions that have targets alone.

        Args:
            tokens_BT: ids, (B, T) int64, T at most the context.
            targets_BT: id to be told at each position, int64; -100: none.
            documents_BT: number of each token's document; attention stays within it. None: a row is one document.
            positions_BT: position of each token; None: 0, 1, ... in every row.
            segments_BT: kind of text of each token; None: the first.
            with_log_z: return the softmax's log-normaliser too, zero where there is no target.
            with_routing: return how uneven the experts' routers are too (see `groundup.model.experts.router_losses`).

        Returns:
            As `Net.answer`.

        Raises:
            ValueError: the window is longer than the context.
        """
        routing = Routing() if with_routing else None
        x_BTD = self.stream(tokens_BT, documents_BT, positions_BT, segments_BT, routing)
        if targets_BT is None:
            return self.answer(x_BTD, None, with_log_z, routing)
        wanted_BQ, has_BQ = targeted(targets_BT)
        wanted = targets_BT.gather(1, wanted_BQ)
        found = self.answer(pick(x_BTD, wanted_BQ), wanted, with_log_z, routing)
        parts = list(found) if isinstance(found, tuple) else [found]
        for number in range(2 if with_log_z else 1):
            # In fp32 as they came; a row's other positions stay zero.
            whole = parts[number].new_zeros(targets_BT.shape)
            parts[number] = whole.scatter(1, wanted_BQ, parts[number].where(has_BQ, 0.0))
        return tuple(parts) if isinstance(found, tuple) else parts[0]

    def stream(
        self,
        tokens_BT: Tensor,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        routing: Routing | None = None,
    ) -> Tensor:
        """What stands at each position behind the last block, (B, T, D); arguments as for `forward`."""
        self.expect_room(tokens_BT)
        frame = frames.window(self.config, tokens_BT, documents_BT, positions_BT, self._dtype)
        found: Tensor = self.trunk(tokens_BT, frame, routing=routing, segments_BT=segments_BT)
        return found
