"""Self-attention with grouped heads; which keys a position may see, and how far they are, comes to it in a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from groundup.model.count import GATE_CHANNELS
from groundup.model.frame import narrowed, pick
from groundup.model.linear import Linear
from groundup.model.norm import Norm
from groundup.model.positions import Relative, rotate

if TYPE_CHECKING:
    from groundup.model.cache import LayerCache
    from groundup.model.frame import Frame
    from groundup.model.options import Transformer as Config

BLOCK = 256
"""Queries that explicit attention takes at a time."""

EXPLICIT = 1024
"""Positions up to which explicit attention is used on a CPU; its memory grows with their square."""


class Heads(nn.Module):
    """The linear maps of an attention, and norms of its queries and keys."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.groups, self.channels = config.heads, config.groups, config.channels
        self.dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
        self.scale = self.channels**-0.5 if config.scaled_scores else 1.0
        if config.mup_base is not None:  # scores of aligned queries and keys grow with C, not with its root
            self.scale *= ((config.mup_head_dim or self.channels) / self.channels) ** 0.5
        outer, inner = self.heads * self.channels, self.groups * self.channels
        self.query = Linear(config.width, outer, bias=config.qkv_bias)
        self.key = Linear(config.width, inner, bias=config.qkv_bias)
        self.value = Linear(config.width, inner, bias=config.qkv_bias)
        self.output = Linear(outer, config.width, bias=config.mixed_bias)
        self.query_norm = Norm(config, self.channels) if config.qk_norm else None
        self.key_norm = Norm(config, self.channels) if config.qk_norm else None


class Attention(Heads):
    """Multi-head (Vaswani et al. 2017), grouped (Ainslie et al. 2023) or multi-query (Shazeer 2019) attention.

    Queries and keys may be normalised (Henry et al. 2020; Dehghani et al. 2023), and values may take up a gated
    embedding of their token (Zhou et al. 2024).
    """

    def __init__(self, config: Config, index: int) -> None:
        super().__init__(config)
        self.sliding = index in config.sliding_layers
        self.relative = Relative(config) if config.positions == "transformer_xl" else None
        # Unit queries and keys bound scores by sqrt(C), far below where exp overflows.
        unit = config.qk_norm and not (config.gain or config.bias) and config.positions in ("rotary", "learned")
        self.bounded = unit and config.scaled_scores and self.channels <= 1024
        self.gate_channels = min(GATE_CHANNELS, config.width)
        gated = index in config.value_layers
        self.value_gate = Linear(self.gate_channels, self.groups, bias=False) if gated else None

    def forward(
        self,
        x_BTD: Tensor,
        frame: Frame,
        values_BTE: Tensor | None = None,
        cache: LayerCache | None = None,
        wanted_BQ: Tensor | None = None,
    ) -> Tensor:
        """What each position, or each of those wanted, gathers from those it may see: (B, T or Q, D).

        Args:
            x_BTD: the stream, (B, T, D).
            frame: positions and mask, shared by all layers.
            values_BTE: embeddings to be added to the values, (B, T, K x C), where this layer has them.
            cache: keys and values of earlier positions; those of `x_BTD` are added to it.
            wanted_BQ: positions that gather; None: all.
        """
        B, T, _ = x_BTD.shape
        asked = frame if wanted_BQ is None else narrowed(frame, wanted_BQ)
        asking = x_BTD if wanted_BQ is None else pick(x_BTD, wanted_BQ)
        query = self.query(asking).view(B, -1, self.heads, self.channels)
        key = self.key(x_BTD).view(B, T, self.groups, self.channels)
        value = self.value(x_BTD).view(B, T, self.groups, self.channels)
        if self.value_gate is not None and values_BTE is not None:
            gate = 2 * torch.sigmoid(self.value_gate(x_BTD[..., : self.gate_channels]))
            value = value + gate[..., None] * values_BTE.view(B, T, self.groups, self.channels).to(value.dtype)
        if cache is not None and self.query_norm is not None and not list(self.query_norm.parameters()):
            # A norm without parameters and a rotation are the same for both: in generation each call counts.
            joined = self.query_norm(torch.cat((query, key), dim=2))
            joined = joined if frame.rotation is None else rotate(joined, *frame.rotation)
            query, key = joined[:, :, : self.heads], joined[:, :, self.heads :]
        else:
            if self.query_norm is not None and self.key_norm is not None:
                query, key = self.query_norm(query), self.key_norm(key)
            if frame.rotation is not None and asked.rotation is not None:
                query, key = rotate(query, *asked.rotation), rotate(key, *frame.rotation)
        key, value = self.known(key, value, frame, cache)
        score_bias = asked.score_bias
        if self.relative is not None and asked.distances is not None:
            score_bias = self.scale * self.relative.scores(query, asked.distances)
            query = self.relative.with_content(query)
        gathered = attend(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            asked.sliding_mask if self.sliding else asked.mask,
            self.dropout if self.training else 0.0,
            self.bounded,
            score_bias,
            self.scale,
            frame.causal,
            asked.sliding_blocks if self.sliding else asked.blocks,
        )
        mixed: Tensor = self.output(gathered.transpose(1, 2).flatten(2))
        return mixed

    def known(self, key: Tensor, value: Tensor, frame: Frame, cache: LayerCache | None) -> tuple[Tensor, Tensor]:
        """Keys and values that queries may see, (B, S, K, C) each: these, behind those of the cache if there is one."""
        return (key, value) if cache is None else cache.extend(key, value, frame.slots, frame.used)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    bounded: bool,
    score_bias: Tensor | None = None,
    scale: float | None = None,
    causal: bool = True,
    blocks: BlockMask | None = None,
) -> Tensor:
    """softmax(scale Q K' + score_bias) V over the visible keys, by the way that is fastest where the tensors are.

    On a CPU and up to `EXPLICIT` positions, where gradients are wanted, that is matrix products around an fp32 softmax,
    which a compiler fuses; else torch's own kernels, which on a CPU are fast forwards alone.

    Args:
        query: (B, H, T, C).
        key: (B, K, S, C), K dividing H.
        value: like key.
        mask: what each query sees, bool, broadcast to (B, H, T, S); None: as `causal` says.
        dropout: share of attention weights dropped.
        bounded: scores are too small for exp to overflow.
        score_bias: what is added to the scores, broadcast to (B, H, T, S).
        scale: of the products; None: 1 / sqrt C.
        causal: without a mask, whether S = T and a query sees the keys up to its own, or all are seen.
        blocks: the mask for FlexAttention (Dong et al. 2024), which then does the rest.

    Returns:
        (B, H, T, C).
    """
    grouped = query.shape[1] != key.shape[1]
    if blocks is not None:
        return flex_attention(query, key, value, block_mask=blocks, scale=scale, enable_gqa=grouped)
    scale = query.shape[3] ** -0.5 if scale is None else scale
    score_bias = None if score_bias is None else score_bias.expand(-1, -1, query.shape[2], key.shape[2])
    if query.device.type == "cpu" and 1 < query.shape[2] <= EXPLICIT and torch.is_grad_enabled():
        if mask is None and not causal:
            mask = torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool)
        return _explicit(query * scale, key, value, mask, dropout, bounded, score_bias)
    if query.device.type == "cpu" and query.shape[2] == 1 and mask is not None and torch.compiler.is_compiling():
        return _one(query * scale, key, value, mask, score_bias)
    causal = causal and mask is None
    if score_bias is not None:
        if causal:
            mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        added = score_bias.to(query.dtype)
        mask, causal = added if mask is None else added.masked_fill(~mask, -torch.inf), False
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def _explicit(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    bounded: bool,
    score_bias: Tensor | None,
) -> Tensor:
    """`Explicit` for grouped keys and values too, with the attention weights that dropout keeps."""
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    kept = None
    if dropout:
        shape = (*query.shape[:3], key.shape[2])
        kept = functional.dropout(torch.ones(shape, dtype=query.dtype), dropout)
    learned = score_bias is not None and score_bias.requires_grad
    output: Tensor = cast(Any, Explicit).apply(query, key, value, mask, kept, bounded, score_bias, learned)
    return output


def _one(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, score_bias: Tensor | None) -> Tensor:
    """The same of one scaled query, (B, H, 1, C), by plain products, which a compiler makes faster than a kernel."""
    B, H, _, C = query.shape
    grouped = query.view(B, key.shape[1], -1, C)
    scores_BHS = (grouped @ key.transpose(2, 3)).view(B, H, 1, -1)
    if score_bias is not None:
        scores_BHS = scores_BHS + score_bias
    weights = scores_BHS.masked_fill(~mask, -torch.inf).float().softmax(dim=-1).to(value.dtype)
    return (weights.view(*grouped.shape[:3], -1) @ value).view(B, H, 1, C)


class Explicit(torch.autograd.Function):
    """softmax(Q K') V by matrix products, in blocks of queries; without a mask, later keys are not even looked at.

    What is kept for the backward pass are exp(scores) and their sums, in the inputs' dtype: the weights are
    normalised behind the second product, where there are fewer numbers (as in FlashAttention-2, Dao 2023), so each
    score is exponentiated once and passed over twice. Sums and exponents are taken in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        kept: Tensor | None,
        bounded: bool,
        score_bias: Tensor | None,
        learned: bool,
    ) -> Tensor:
        """All are (B, H, T or S, C), the query scaled already; `kept` holds 0 or 1 / (1 - dropout) for each weight.

        `bounded` says that scores are too small for exp to overflow, so that no maximum need be subtracted;
        `score_bias` is added to the scores, and `learned` says that it wants a gradient.
        """
        B, H, T, C = query.shape
        q, k, v = (x.reshape(B * H, -1, C) for x in (query, key, value))
        outputs, weights, sums = [], [], []
        for rows, columns in _blocks(T, k.shape[1], mask is None):
            scores = torch.bmm(q[:, rows], k[:, columns].transpose(1, 2)).view(B, H, -1, columns.stop)
            visible = _causal(rows, columns, q.device) if mask is None else mask[..., rows, columns]
            wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
            if score_bias is not None:
                wide = wide + score_bias[..., rows, columns]
            if not bounded:
                wide = wide - wide.masked_fill(~visible, -torch.inf).amax(dim=-1, keepdim=True)
            weight = torch.where(visible, wide.exp(), 0.0).to(scores.dtype)
            total = weight.to(wide.dtype).sum(dim=-1, keepdim=True)
            used = weight if kept is None else weight * kept[..., rows, columns]
            gathered = torch.bmm(used.view(B * H, -1, columns.stop), v[:, columns]).view(B, H, -1, C)
            outputs.append((gathered / total).to(value.dtype))
            weights.append(weight)
            sums.append(total)
        output = torch.cat(outputs, dim=2)
        ctx.learned = None if score_bias is None or not learned else (score_bias.shape, score_bias.dtype)
        ctx.save_for_backward(query, key, value, mask, kept, output, *weights, *sums)
        return output

    @staticmethod
    def backward(ctx: Any, by_output: Tensor) -> tuple[Tensor | None, ...]:
        """With P the softmax, dP = dO V' and D = sum(dO * O) over channels: dS = P * (dP - D)."""
        query, key, value, mask, kept, output, *rest = ctx.saved_tensors
        B, H, T, C = query.shape
        q, k, v = (x.reshape(B * H, -1, C) for x in (query, key, value))
        count = len(rest) // 2
        by_q = []
        by_k, by_v = (torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in (k, v))
        by_bias = None if ctx.learned is None else by_k.new_zeros(B, H, T, k.shape[1])
        for (rows, columns), weight, total in zip(
            _blocks(T, k.shape[1], mask is None), rest[:count], rest[count:], strict=True
        ):
            scaled = by_output[:, :, rows] / total
            dot = (scaled * output[:, :, rows]).sum(dim=-1, keepdim=True)
            scaled_NTC = scaled.to(value.dtype).reshape(B * H, -1, C)
            by_weight = torch.bmm(scaled_NTC, v[:, columns].transpose(1, 2)).view_as(weight)
            used = weight
            if kept is not None:
                used, by_weight = weight * kept[..., rows, columns], by_weight * kept[..., rows, columns]
            by_scores = (weight * (by_weight - dot)).to(weight.dtype).view(B * H, -1, columns.stop)
            if by_bias is not None:
                by_bias[:, :, rows, columns] = by_scores.view_as(weight)
            by_q.append(torch.bmm(by_scores, k[:, columns]))
            by_k[:, columns] += torch.bmm(by_scores.transpose(1, 2), q[:, rows])
            by_v[:, columns] += torch.bmm(used.view_as(by_scores).transpose(1, 2), scaled_NTC)
        by_keys, by_values = by_k.to(k.dtype).view_as(key), by_v.to(v.dtype).view_as(value)
        by_queries = torch.cat(by_q, dim=1).view_as(query)
        summed = None if by_bias is None else by_bias.sum_to_size(ctx.learned[0]).to(ctx.learned[1])
        return by_queries, by_keys, by_values, None, None, None, summed, None


def _blocks(T: int, S: int, causal: bool) -> list[tuple[slice, slice]]:
    """Rows of queries with the columns of keys that they may see."""
    stops = [(start, min(start + BLOCK, T)) for start in range(0, T, BLOCK)]
    return [(slice(start, stop), slice(0, stop if causal else S)) for start, stop in stops]


def _causal(rows: slice, columns: slice, device: torch.device) -> Tensor:
    return torch.arange(columns.stop, device=device) <= torch.arange(rows.start, rows.stop, device=device)[:, None]
