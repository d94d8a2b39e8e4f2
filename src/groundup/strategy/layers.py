"""The layers of a net whose matrices are cut over ranks: the model's own, with what moves between ranks around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional

from groundup.model import block, experts, part, trunk
from groundup.model.attention import Attention as WholeAttention
from groundup.model.cross import CrossAttention as WholeCrossAttention
from groundup.model.feedforward import FeedForward as WholeFeedForward
from groundup.strategy.part import POSITIONS, WHOLE, Part

if TYPE_CHECKING:
    from groundup.model.cache import Cache
    from groundup.model.frame import Frame


class Cut(Part):
    """Reads the stream by columns of its first matrices, and adds to it by rows of its last (Shoeybi et al. 2019)."""

    def forward(self, x_BTD: Tensor, *arguments: Any, **named: Any) -> Any:
        """As the whole layer; of the stream, what this rank has."""
        return self.ranks.leave(super().forward(self.ranks.enter(x_BTD), *arguments, **named))


class Attention(Cut, WholeAttention):
    """Self-attention of this rank's heads."""


class CrossAttention(Cut, WholeCrossAttention):
    """Cross-attention of this rank's heads; what the encoder made is whole on every rank."""

    def remembered(self, memory_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of this rank's heads."""
        with self.reading():
            return super().remembered(memory_BSD)


class FeedForward(Cut, WholeFeedForward):
    """A feed-forward's channels of this rank."""


class Experts(Cut, experts.Experts):
    """This rank's channels of every expert, so that ranks have equal work however positions are routed.

    The router is read by every rank for all positions. Its gradient comes from each rank's part of the experts, and
    from its own losses, which every rank has whole: these count a share on each.
    """

    def forward(self, x_BTD: Tensor, routing: experts.Routing | None = None) -> Tensor:
        """As the whole layer."""
        mixed: Tensor = super().forward(x_BTD, routing)
        if routing is not None:
            held = routing.layers[-1].detach()
            routing.layers[-1] = held + (routing.layers[-1] - held) / self.ranks.count
        return mixed


class Block(Part, block.Block):
    """A block whose norms, dropout and sums see what this rank has of the stream."""

    def forward(self, x_BTD: Tensor, first_BTD: Tensor, frame: Frame, *arguments: Any, **named: Any) -> Any:
        """As the whole block; told by the stream itself whether it is cut, so that a block can be run again alone."""
        self.ranks.sliced = x_BTD.shape[1] < frame.positions.shape[-1]
        return super().forward(x_BTD, first_BTD, frame, *arguments, **named)

    def _drop(self, x: Tensor) -> Tensor:
        """Drop as one process would: of the draw for all positions, this rank's."""
        if not (self.training and self.dropout and self.ranks.sliced):
            return super()._drop(x)
        count, number = self.ranks.count, self.ranks.number
        kept = functional.dropout(x.new_ones(x.shape[0], x.shape[1] * count, x.shape[2]), self.dropout)
        return x * kept.chunk(count, dim=1)[number]


class Stream(Part):
    """Mixed into a trunk: embeddings and what the head reads are whole on every rank, and cut is what lies between."""

    def framed(self, frame: Frame, cut: bool) -> Frame:
        """Say whether in the pass that begins the stream is cut; the frame of this rank's heads."""
        self.ranks.sliced = cut
        if frame.score_bias is None:
            return frame
        first, heads = self.ranks.part(frame.score_bias.shape[1])  # ALiBi's, of all heads
        return frame._replace(score_bias=frame.score_bias[:, first : first + heads])

    def enter(self, x_BTD: Tensor) -> Tensor:
        """What this rank carries through the blocks."""
        return self.ranks.moved(x_BTD, WHOLE, POSITIONS, POSITIONS) if self.ranks.sliced else x_BTD

    def end(self, x_BTD: Tensor) -> Tensor:
        """What the head reads, whole."""
        ended: Tensor = super().end(x_BTD)  # type: ignore[misc]  # the trunk's
        return self.ranks.moved(ended, POSITIONS, WHOLE, WHOLE) if self.ranks.sliced else ended


class Trunk(Stream, trunk.Trunk):
    """A trunk whose embeddings and blocks are cut; what comes in and goes out is whole on every rank."""

    def forward(
        self,
        tokens_BT: Tensor,
        frame: Frame,
        cache: Cache | None = None,
        last_B: Tensor | None = None,
        wanted_BQ: Tensor | None = None,
        routing: experts.Routing | None = None,
        memory_BSD: Tensor | None = None,
        *arguments: Any,
        **named: Any,
    ) -> Any:
        """As the whole trunk. The stream is cut where its positions divide by the ranks and all are wanted."""
        all_wanted = cache is None and wanted_BQ is None
        frame = self.framed(frame, all_wanted and self.ranks.cuts(tokens_BT.shape[1]))
        if memory_BSD is not None:
            memory_BSD = self.ranks.shared(memory_BSD)
        return super().forward(tokens_BT, frame, cache, last_B, wanted_BQ, routing, memory_BSD, *arguments, **named)


class Stretches(Stream, part.Part):
    """Stretches of such a trunk; where the stream is cut, each rank hands its positions on to the next stretch's."""

    def forward(self, tokens_BT: Tensor, frame: Frame, *arguments: Any, **named: Any) -> Any:
        """As the whole stretches; what comes and goes between them is what this rank has."""
        frame = self.framed(frame, self.ranks.cuts(tokens_BT.shape[1]))
        return super().forward(tokens_BT, frame, *arguments, **named)

    def shapes(self, layer: int, rows: int, length: int, routed: bool) -> list[tuple[int, ...]]:
        """Of what this rank has; see `model.part.Part.shapes`."""
        return super().shapes(layer, rows, length // self.ranks.count if self.ranks.cuts(length) else length, routed)
