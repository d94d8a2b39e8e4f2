"""One layer of a trunk: attention, then feed-forward, each added to the residual stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from groundup.model.attention import Attention
from groundup.model.feedforward import FeedForward
from groundup.model.frame import pick
from groundup.model.norm import Norm

if TYPE_CHECKING:
    from groundup.model.cache import LayerCache
    from groundup.model.config import Decoder as Config
    from groundup.model.frame import Frame


class Block(nn.Module):
    """A pre-norm block (Radford et al. 2019): x + A(norm x), then x + F(norm x).

    With `mixing` it reads a x + b x0 instead of x, where x0 is the embedding (Jordan et al. 2024, modded-nanogpt).
    """

    mix: nn.Parameter | None

    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.register_parameter("mix", nn.Parameter(torch.tensor([1.0, 0.0])) if config.mixing else None)
        self.attention_norm = Norm(config, config.width)
        self.attention = Attention(config, values=index in config.value_layers)
        self.feedforward_norm = Norm(config, config.width)
        self.feedforward = FeedForward(config)

    def forward(
        self,
        x_BTD: Tensor,
        first_BTD: Tensor,
        frame: Frame,
        values_BTE: Tensor | None = None,
        cache: LayerCache | None = None,
        wanted_BQ: Tensor | None = None,
    ) -> Tensor:
        """The stream behind this layer, (B, T, D), or (B, Q, D) at the positions that are wanted.

        Args:
            x_BTD: the stream, (B, T, D).
            first_BTD: the stream before the first layer.
            frame: positions and mask.
            values_BTE: value embeddings of this layer, if it has them.
            cache: of this layer, in generation.
            wanted_BQ: positions that are wanted; None: all.
        """
        if self.mix is not None:
            x_BTD = self.mix[0] * x_BTD + self.mix[1] * first_BTD
        gathered = self.attention(self.attention_norm(x_BTD), frame, values_BTE, cache, wanted_BQ)
        x_BTD = (x_BTD if wanted_BQ is None else pick(x_BTD, wanted_BQ)) + self._drop(gathered)
        return x_BTD + self._drop(self.feedforward(self.feedforward_norm(x_BTD)))

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.training else x
