"""Embedding and head whose vocabulary is cut over ranks, so that none ever holds all logits where there are targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import Shard

from groundup.model import head
from groundup.model.head import IGNORED
from groundup.strategy.part import ADDENDS, WHOLE, Part


class Embedding(Part, nn.Embedding):
    """Each rank looks up the ids that it has; the sum over ranks is every token's vector (Shoeybi et al. 2019)."""

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """(B, T) to (B, T, E), whole on every rank."""
        first, rows = self.ranks.part(self.num_embeddings)
        here_BT = (tokens_BT >= first) & (tokens_BT < first + rows)
        found_BTE = super().forward(torch.where(here_BT, tokens_BT - first, 0))
        return self.ranks.moved(found_BTE.masked_fill(~here_BT[..., None], 0.0), ADDENDS, WHOLE, WHOLE)


class Head(Part, head.Head):
    """Each rank makes the logits of its ids, in pieces as ever; ranks tell each other two numbers for each position."""

    def forward(self, x_BTD: Tensor, targets_BT: Tensor | None = None, tied: Tensor | None = None) -> Any:
        """As the whole head; without targets the logits of all ids, on every rank.

        With Z_r the sum of exponentials on rank r and l the target's logit on the rank that has it, log Z is the
        logarithm of sum_r Z_r and the likelihood's negative log Z - l (Shoeybi et al. 2019, section 3).
        """
        weight_VD = self.weight if tied is None else tied
        assert weight_VD is not None
        vocabulary = len(weight_VD)
        x_BTD, tied = self.ranks.shared(x_BTD), None if tied is None else self.ranks.own(tied)
        if targets_BT is None:
            logits = super().forward(x_BTD, None, tied)
            shape = (*x_BTD.shape[:-1], vocabulary)
            return self.ranks.moved(logits, Shard(logits.dim() - 1), WHOLE, WHOLE, shape)
        first, rows = self.ranks.part(vocabulary)
        here_BT = (targets_BT >= first) & (targets_BT < first + rows)
        nll_BT, log_z_BT = super().forward(x_BTD, torch.where(here_BT, targets_BT - first, IGNORED), tied)
        chosen_BT = torch.where(here_BT, log_z_BT - nll_BT, 0.0)
        found = torch.stack((log_z_BT, chosen_BT))[None]
        log_z_RBT, chosen_RBT = self.ranks.moved(found, Shard(0), WHOLE, WHOLE).unbind(dim=1)
        log_z_BT = log_z_RBT.logsumexp(dim=0)
        return (log_z_BT - chosen_RBT.sum(dim=0)).where(targets_BT != IGNORED, 0.0), log_z_BT
