"""The encoder-decoder: a source is read as a whole, another text is written to it; losses are not its business."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from groundup.model import frame as frames
from groundup.model.block import Block
from groundup.model.cache import Cache
from groundup.model.decoder import Decoder
from groundup.model.experts import Routing
from groundup.model.head import Head
from groundup.model.mask import Mask, dense
from groundup.model.trunk import Trunk


class EncoderDecoder(Decoder):
    """A decoder that gathers from what an encoder has read (Vaswani et al. 2017; Raffel et al. 2020, T5).

    In generation, `read` takes the sources first; `decode` and `step` then go on as a decoder's do.
    """

    encoder: Trunk

    def put_together(self, config: Any) -> None:
        """Make the parts, without memory."""
        self.encoder = Trunk(config.encoder, embeds=False)
        self.trunk = Trunk(config, crosses=True)
        self.head = Head(config)

    def forward(  # type: ignore[override]
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        *,
        source_BS: Tensor,
        source_documents_BS: Tensor | None = None,
        source_positions_BS: Tensor | None = None,
        with_log_z: bool = False,
        with_routing: bool = False,
    ) -> Any:
        """Likelihoods of targets, or logits.

        Args:
            tokens_BT: ids that the decoder has written, (B, T) int64, T at most the context.
            targets_BT: id to be predicted at each position, int64; -100: none.
            documents_BT: number of each token's document; what it sees, also of the source, is of that document. None:
                a row is one document.
            positions_BT: position of each token; None: 0, 1, ... in every row.
            source_BS: ids that the encoder reads, (B, S) int64, S at most the context.
            source_documents_BS: of the source likewise; a number that no token of `documents_BT` has is padding's.
            source_positions_BS: of the source likewise.
            with_log_z: return the softmax's log-normaliser too.
            with_routing: return how uneven the experts' routers are too (see `groundup.model.experts.router_losses`).

        Returns:
            As `Net.answer`.

        Raises:
            ValueError: a text is longer than the context, or one of two has documents.
        """
        routing = Routing() if with_routing else None
        source = source_BS, source_documents_BS, source_positions_BS
        x_BTD = self.stream(tokens_BT, documents_BT, positions_BT, *source, routing)
        return self.answer(x_BTD, targets_BT, with_log_z, routing)

    def stream(  # type: ignore[override]
        self,
        tokens_BT: Tensor,
        documents_BT: Tensor | None,
        positions_BT: Tensor | None,
        source_BS: Tensor,
        source_documents_BS: Tensor | None = None,
        source_positions_BS: Tensor | None = None,
        routing: Routing | None = None,
    ) -> Tensor:
        """What stands at each of the decoder's positions behind its last block, (B, T, D); as for `forward`."""
        if (documents_BT is None) != (source_documents_BS is None):
            raise ValueError("documents are told apart in the source and in what is written, or in neither")
        self.expect_room(tokens_BT)
        memory_BSD = self.memory(source_BS, source_documents_BS, source_positions_BS, routing)
        frame = frames.window(self.config, tokens_BT, documents_BT, positions_BT, self._dtype)
        if documents_BT is not None and source_documents_BS is not None:
            frame = frame._replace(memory_mask=_crossing(documents_BT, source_documents_BS))
        found: Tensor = self.trunk(tokens_BT, frame, routing=routing, memory_BSD=memory_BSD)
        return found

    def memory(
        self,
        source_BS: Tensor,
        source_documents_BS: Tensor | None = None,
        source_positions_BS: Tensor | None = None,
        routing: Routing | None = None,
    ) -> Tensor:
        """What the encoder makes of a source, (B, S, D); arguments as for `forward`."""
        self.expect_room(source_BS)
        of_encoder = self.config.encoder
        frame = frames.window(of_encoder, source_BS, source_documents_BS, source_positions_BS, self._dtype)
        found: Tensor = self.encoder(source_BS, frame, routing=routing, embedded_BTD=self.trunk.embed(source_BS))
        return found

    def read(self, source_BS: Tensor, cache: Cache, counts_B: Tensor | None = None) -> None:
        """Read the source of each row, for `decode` and `step` to write to; never compiled.

        Args:
            source_BS: ids, (B, S); row b's first counts_B[b] are read, the rest is padding on the right.
            cache: from `new_cache`; it takes up the sources.
            counts_B: tokens to read in each row, (B,) int64, at least 1; None: S.
        """
        counts_B = torch.full_like(cache.lengths, source_BS.shape[1]) if counts_B is None else counts_B
        there_BS = torch.arange(source_BS.shape[1], device=source_BS.device) < counts_B[:, None]
        with torch.compiler.set_stance("force_eager"):
            memory_BSD = self.memory(source_BS, torch.where(there_BS, 0, -1))
            for layer, block in zip(cache.layers, self.trunk.blocks.values(), strict=True):
                layer.memory = cast(Block, block).remembered(memory_BSD)
        cache.memory_mask = there_BS[:, None, None]

    @torch.no_grad()
    def likelihoods(  # type: ignore[override]
        self, tokens_BT: Tensor, targets_BT: Tensor, source_BS: Tensor, counts_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How likely targets are and whether they are the likeliest ids; as a decoder's, beside a source.

        Args:
            tokens_BT: ids that the decoder has written, (B, T) int64; padding stands on the right.
            targets_BT: id to be predicted at each position, int64; -100: none.
            source_BS: ids that the encoder reads, (B, S) int64.
            counts_B: tokens of each source, at least 1; the rest is padding on the right.

        Returns:
            As `Decoder.likelihoods`.
        """
        there_BS = torch.arange(source_BS.shape[1], device=source_BS.device) < counts_B[:, None]
        with torch.compiler.set_stance("force_eager"):
            memory_BSD = self.memory(source_BS, torch.where(there_BS, 0, -1))
            frame = frames.window(self.config, tokens_BT, None, None, self._dtype)
            frame = frame._replace(memory_mask=there_BS[:, None, None])
            return self.judged(
                targets_BT, lambda wanted: self.trunk(tokens_BT, frame, wanted_BQ=wanted, memory_BSD=memory_BSD)
            )

    @property
    def reads_branches(self) -> bool:
        """Whether `likelihoods` takes rows with branches."""
        return False

    @property
    def reads_source(self) -> bool:
        """Whether text is written to a source that an encoder reads, not as what goes on from it."""
        return True


def _crossing(documents_BT: Tensor, source_documents_BS: Tensor) -> Tensor:
    """What each token sees of the source, (B, 1, T, S) bool."""
    mask = Mask(documents_BT, documents_BT, full=True, sources_BS=source_documents_BS)
    return dense(mask, len(documents_BT), documents_BT.shape[1], source_documents_BS.shape[1])
