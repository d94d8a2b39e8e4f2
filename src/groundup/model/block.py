"""One layer of a trunk: attention and feed-forward, each added to the residual stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from groundup.model.attention import Attention
from groundup.model.cross import CrossAttention
from groundup.model.experts import Experts, Routing
from groundup.model.feedforward import FeedForward
from groundup.model.frame import pick
from groundup.model.norm import norm

if TYPE_CHECKING:
    from groundup.model.cache import LayerCache
    from groundup.model.frame import Frame
    from groundup.model.options import Transformer as Config


class Block(nn.Module):
    """Attention A and feed-forward F around the residual stream, in one of the orders of the literature.

    `pre`: x + A(norm x), then x + F(norm x) (Radford et al. 2019). `post`: norm(x + A(x)), then norm(x + F(x)) (Vaswani
    et al. 2017). `parallel`: x + A(norm x) + F(norm x), with one norm for both (Wang & Komatsuzaki 2021, GPT-J;
    Chowdhery et al. 2022, PaLM) or one for each (Black et al. 2022, GPT-NeoX).

    A decoder that an encoder reads for gathers from its text between the two, in the same way.

    With `mixing` it reads a x + b x0 instead of x, where x0 is the embedding (Jordan et al. 2024, modded-nanogpt).
    """

    mix: nn.Parameter | None

    def __init__(self, config: Config, index: int, crosses: bool = False) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.post, self.parallel = config.norm_place == "post", config.parallel is not None
        self.register_parameter("mix", nn.Parameter(torch.tensor([1.0, 0.0])) if config.mixing else None)
        self.attention_norm = norm(config, config.width)
        self.attention = Attention(config, index)
        self.cross_norm = norm(config, config.width) if crosses else None
        self.cross_attention = CrossAttention(config) if crosses else None
        self.feedforward_norm = None if config.parallel == "one_norm" else norm(config, config.width)
        self.sparse = index in config.expert_layers
        self.feedforward = Experts(config) if self.sparse else FeedForward(config)

    def forward(
        self,
        x_BTD: Tensor,
        first_BTD: Tensor,
        frame: Frame,
        values_BTE: Tensor | None = None,
        cache: LayerCache | None = None,
        wanted_BQ: Tensor | None = None,
        routing: Routing | None = None,
        memory_BSD: Tensor | None = None,
    ) -> Tensor:
        """The stream behind this layer, (B, T, D), or (B, Q, D) at the positions that are wanted.

        Args:
            x_BTD: the stream, (B, T, D).
            first_BTD: the stream before the first layer.
            frame: positions and mask.
            values_BTE: value embeddings of this layer, if it has them.
            cache: of this layer, in generation.
            wanted_BQ: positions that are wanted; None: all.
            routing: takes up how uneven the experts' router is, if there are any.
            memory_BSD: what an encoder has made of its text, (B, S, D), if there is one and no cache that has it.
        """
        if self.mix is not None:
            x_BTD = self.mix[0] * x_BTD + self.mix[1] * first_BTD
        read_BTD = x_BTD if self.post else self.attention_norm(x_BTD)
        gathered = self._drop(self.attention(read_BTD, frame, values_BTE, cache, wanted_BQ))
        if wanted_BQ is not None:
            x_BTD, read_BTD = pick(x_BTD, wanted_BQ), pick(read_BTD, wanted_BQ)
        if self.post:
            x_BTD = self.attention_norm(x_BTD + gathered)
            if self.cross_attention is not None and self.cross_norm is not None:
                crossed = self._drop(self.cross_attention(x_BTD, frame, memory_BSD, cache, wanted_BQ))
                x_BTD = self.cross_norm(x_BTD + crossed)
            return self._normed(x_BTD + self._fed(x_BTD, routing))
        if self.parallel:
            read_BTD = read_BTD if self.feedforward_norm is None else self._normed(x_BTD)
            return x_BTD + gathered + self._fed(read_BTD, routing)
        x_BTD = x_BTD + gathered
        if self.cross_attention is not None and self.cross_norm is not None:
            read_BTD = self.cross_norm(x_BTD)
            x_BTD = x_BTD + self._drop(self.cross_attention(read_BTD, frame, memory_BSD, cache, wanted_BQ))
        return x_BTD + self._fed(self._normed(x_BTD), routing)

    def remembered(self, memory_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of an encoder's text, as generation keeps them; only for a block that gathers from one."""
        assert self.cross_attention is not None
        return self.cross_attention.remembered(memory_BSD)

    def _fed(self, x_BTD: Tensor, routing: Routing | None) -> Tensor:
        return self._drop(self.feedforward(x_BTD, routing) if self.sparse else self.feedforward(x_BTD))

    def _normed(self, x_BTD: Tensor) -> Tensor:
        assert self.feedforward_norm is not None
        normed: Tensor = self.feedforward_norm(x_BTD)
        return normed

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.training else x
