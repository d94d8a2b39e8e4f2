"""Cross-attention: what a decoder gathers from the text that an encoder has read; masks come to it in a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from groundup.model.attention import Heads, attend
from groundup.model.frame import narrowed

if TYPE_CHECKING:
    from groundup.model.cache import LayerCache
    from groundup.model.frame import Frame


class CrossAttention(Heads):
    """Attention of a stream's queries to another stream's keys and values, without positions (Vaswani et al. 2017)."""

    def forward(
        self,
        x_BTD: Tensor,
        frame: Frame,
        memory_BSD: Tensor | None,
        cache: LayerCache | None = None,
        wanted_BQ: Tensor | None = None,
    ) -> Tensor:
        """What each position gathers from the source, (B, T, D).

        Args:
            x_BTD: the stream, already of the positions that are wanted, if not all are.
            frame: its `memory_mask` says what of the source each position sees.
            memory_BSD: what the encoder made of the source, (B, S, D).
            cache: in generation, has the keys and values of it instead.
            wanted_BQ: the positions that `x_BTD` holds; None: all.
        """
        B, T, _ = x_BTD.shape
        query = self.query(x_BTD).view(B, T, self.heads, self.channels)
        if self.query_norm is not None:
            query = self.query_norm(query)
        if cache is not None and cache.memory is not None:
            key, value = cache.memory
        else:
            assert memory_BSD is not None
            key, value = self.remembered(memory_BSD)
        mask = (frame if wanted_BQ is None else narrowed(frame, wanted_BQ)).memory_mask
        gathered = attend(
            query.transpose(1, 2),
            key.transpose(1, 2).to(query.dtype),
            value.transpose(1, 2).to(query.dtype),
            mask,
            self.dropout if self.training else 0.0,
            bounded=False,
            scale=self.scale,
            causal=False,
        )
        mixed: Tensor = self.output(gathered.transpose(1, 2).flatten(2))
        return mixed

    def remembered(self, memory_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what the encoder made of the source, (B, S, K, C) each."""
        shape = (*memory_BSD.shape[:2], self.groups, self.channels)
        key, value = self.key(memory_BSD).view(shape), self.value(memory_BSD).view(shape)
        return key if self.key_norm is None else self.key_norm(key), value
