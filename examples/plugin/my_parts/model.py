"""The network: the last few tokens in, the likelihood of the next one out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from my_parts.config import Ngram as Config


class Ngram(nn.Module):
    """The embeddings of the last `order` tokens side by side, one hidden layer, and a softmax.

    The optimizer tells parameters by their names: `embedding` is a table to look up, what stands in `blocks` is a
    matrix (which Muon would take), `head` is the output.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.vocabulary, self.context = config.closed()
        self.embedding = nn.Embedding(self.vocabulary, config.width)
        self.blocks = nn.ModuleDict({"0": nn.Linear(config.order * config.width, config.hidden, bias=False)})
        self.head = nn.Linear(config.hidden, self.vocabulary, bias=False)

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
    ) -> Any:
        """Likelihoods of targets, or logits.

        Args:
            tokens_BT: ids, (B, T) int64.
            targets_BT: id to be predicted at each position; -100: none.
            documents_BT: number of each token's document; what another document says is not looked at.
            positions_BT: not needed here.

        Returns:
            Without targets, logits (B, T, V). With targets, negative log-likelihoods in nats, (B, T) fp32, zero where
            there is no target.
        """
        del positions_BT
        x_BTD = self.embedding(tokens_BT)
        seen = [self._earlier(x_BTD, documents_BT, back) for back in range(self.config.order)]
        logits_BTV = self.head(torch.tanh(self.blocks["0"](torch.cat(seen, dim=-1))))
        if targets_BT is None:
            return logits_BTV
        return functional.cross_entropy(logits_BTV.float().transpose(1, 2), targets_BT, reduction="none")

    def compile_(self, **options: Any) -> None:
        """Compile in place, so that the parameters keep their names."""
        self.compile(**options)

    @staticmethod
    def _earlier(x_BTD: Tensor, documents_BT: Tensor | None, back: int) -> Tensor:
        """The embedding `back` positions before each, zero where that is outside the window or the document."""
        T = x_BTD.shape[1]
        if back == 0:
            return x_BTD
        shifted_BTD = functional.pad(x_BTD, (0, 0, back, 0))[:, :T]
        if documents_BT is None:
            return shifted_BTD
        before_BT = functional.pad(documents_BT, (back, 0), value=-1)[:, :T]
        return shifted_BTD * (before_BT == documents_BT)[..., None]
