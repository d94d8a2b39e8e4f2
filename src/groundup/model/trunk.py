"""A stack of blocks with the embeddings before it; what is done with its stream is the head's business."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from groundup.model.block import Block
from groundup.model.cache import Cache
from groundup.model.count import GATE_CHANNELS
from groundup.model.experts import Routing
from groundup.model.frame import Frame
from groundup.model.linear import Linear
from groundup.model.norm import norm
from groundup.model.positions import Buckets, sinusoids

if TYPE_CHECKING:
    from groundup.model.options import Transformer as Config


class Shift(nn.Module):
    """Each vector takes up a share of the one before, as a gate on its first channels decides (nanochat's smear)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.channels = min(GATE_CHANNELS, config.width)
        self.gate = nn.Linear(self.channels, 1, bias=False)
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x_BTD: Tensor, before_BTD: Tensor, joined_BT: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); `before_BTD` is what stands before each."""
        gate_BT1 = self.scale * torch.sigmoid(self.gate(x_BTD[..., : self.channels]))
        if joined_BT is not None:
            gate_BT1 = gate_BT1 * joined_BT[..., None]
        return x_BTD + (gate_BT1 * before_BTD).to(x_BTD.dtype)


class Trunk(nn.Module):
    """All but the head: embeddings, blocks and the last norm.

    Args:
        config: the network.
        embeds: it has the embedding of tokens, which the encoder of an encoder-decoder shares with the decoder.
        crosses: its blocks gather from an encoder's text.
    """

    ends = True
    """Whether what it gives is the head's to read; a part of a trunk may leave it to the next part."""

    embedding: nn.Embedding
    positions: nn.Embedding | None

    def __init__(self, config: Config, embeds: bool = True, crosses: bool = False) -> None:
        super().__init__()
        vocabulary, context = config.closed()
        self.dropout = config.dropout if config.embedding_dropout is None else config.embedding_dropout
        self.scale = math.sqrt(config.width) if config.scaled_embedding else None
        if embeds:
            self.embedding = nn.Embedding(vocabulary, config.embedded)
        own = config.embedding_width is not None
        self.project_in = Linear(config.embedded, config.width, bias=False) if own else None
        self.positions = nn.Embedding(context, config.width) if config.positions == "learned" else None
        self.sinusoidal = config.positions == "sinusoidal"
        self.segments = nn.Embedding(config.segments, config.width) if config.segments else None
        self.buckets = Buckets(config) if config.positions == "t5" else None
        self.embedding_norm = norm(config, config.width) if config.embedding_norm else None
        self.shift = Shift(config) if config.shift else None
        inner = config.groups * config.channels
        self.values = nn.ModuleDict({str(i): nn.Embedding(vocabulary, inner) for i in config.value_layers})
        self.blocks = nn.ModuleDict({str(i): Block(config, i, crosses) for i in range(config.layers)})
        self.norm = norm(config, config.width) if config.norm_place == "pre" else None
        self.project_out = Linear(config.width, config.embedded, bias=False) if own else None

    @property
    def dtype(self) -> torch.dtype:
        """Of its parameters."""
        return self.embedding.weight.dtype

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """The vectors of tokens as they enter the stream, (B, T, D)."""
        x_BTD: Tensor = self.embedding(tokens_BT)
        if self.project_in is not None:
            x_BTD = self.project_in(x_BTD)
        return x_BTD if self.scale is None else x_BTD * self.scale

    def enter(self, x_BTD: Tensor) -> Tensor:
        """What of the stream is carried through the blocks here: all of it, where no other process has a part."""
        return x_BTD

    def before(self, x_BTD: Tensor, frame: Frame, previous_BD: Tensor | None) -> Tensor:
        """The vector before each, (B, T, D): before the first `previous_BD`, or zeros."""
        del frame
        first = torch.zeros_like(x_BTD[:, :1]) if previous_BD is None else previous_BD[:, None].to(x_BTD.dtype)
        return torch.cat((first, x_BTD[:, :-1]), dim=1)

    def forward(
        self,
        tokens_BT: Tensor,
        frame: Frame,
        cache: Cache | None = None,
        last_B: Tensor | None = None,
        wanted_BQ: Tensor | None = None,
        routing: Routing | None = None,
        memory_BSD: Tensor | None = None,
        embedded_BTD: Tensor | None = None,
        segments_BT: Tensor | None = None,
    ) -> Tensor:
        """The stream for the head, (B, T, E), or (B, Q, E) at the positions that are wanted.

        Args:
            tokens_BT: ids, (B, T) int64.
            frame: positions and mask.
            cache: in generation, the state to go on from; it is brought forward.
            last_B: in generation, the index of each row's last real token.
            wanted_BQ: positions that are wanted; the last block then works for them alone. None: all.
            routing: takes up how uneven each router of experts is.
            memory_BSD: what an encoder has made of its text, (B, S, D), where blocks gather from one.
            embedded_BTD: what `embed` makes of the tokens, where another trunk has the embedding.
            segments_BT: kind of text of each token; None: the first.
        """
        x_BTD = self.begin(tokens_BT, frame, cache, last_B, embedded_BTD, segments_BT)
        x_BTD = self.through(self.blocks, x_BTD, x_BTD, tokens_BT, frame, cache, wanted_BQ, routing, memory_BSD)
        return self.end(x_BTD)

    def begin(
        self,
        tokens_BT: Tensor,
        frame: Frame,
        cache: Cache | None = None,
        last_B: Tensor | None = None,
        embedded_BTD: Tensor | None = None,
        segments_BT: Tensor | None = None,
    ) -> Tensor:
        """The stream before the first block, (B, T, D); arguments as for `forward`."""
        x_BTD = self.embed(tokens_BT) if embedded_BTD is None else embedded_BTD
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(frame.positions)
        if self.sinusoidal:
            x_BTD = x_BTD + sinusoids(frame.positions, x_BTD.shape[-1], x_BTD.dtype, interleaved=True)
        if self.segments is not None:
            x_BTD = x_BTD + (self.segments.weight[0] if segments_BT is None else self.segments(segments_BT))
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        if self.shift is not None:
            unshifted_BTD = x_BTD
            before_BTD = self.before(x_BTD, frame, None if cache is None else cache.previous)
            x_BTD = self.shift(x_BTD, before_BTD, frame.joined)
            if cache is not None:
                cache.previous = unshifted_BTD[torch.arange(len(tokens_BT), device=x_BTD.device), last_B].to(
                    cache.previous.dtype
                )
        if self.training:
            x_BTD = functional.dropout(x_BTD, self.dropout)
        return self.enter(x_BTD)

    def through(
        self,
        names: Iterable[str],
        x_BTD: Tensor,
        first_BTD: Tensor,
        tokens_BT: Tensor,
        frame: Frame,
        cache: Cache | None = None,
        wanted_BQ: Tensor | None = None,
        routing: Routing | None = None,
        memory_BSD: Tensor | None = None,
    ) -> Tensor:
        """The stream behind some of the blocks, (B, T, D) or (B, Q, D); other arguments as for `forward`.

        Args:
            names: of the blocks, in their order.
            x_BTD: the stream before them.
            first_BTD: the stream before the first block of all.
        """
        if self.buckets is not None and frame.distances is not None:
            frame = frame._replace(score_bias=self.buckets(frame.distances))
        last = str(len(self.blocks) - 1)
        for name in names:
            values_BTE = self.values[name](tokens_BT) if name in self.values else None
            layer = None if cache is None else cache.layers[int(name)]
            wanted = wanted_BQ if name == last else None
            x_BTD = self.blocks[name](x_BTD, first_BTD, frame, values_BTE, layer, wanted, routing, memory_BSD)
        return x_BTD

    def end(self, x_BTD: Tensor) -> Tensor:
        """What the head reads of the stream behind the last block, (B, T, E)."""
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        ended: Tensor = x_BTD if self.project_out is None else self.project_out(x_BTD)
        return ended
