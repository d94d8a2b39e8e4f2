"""The head: the stream to logits or, in pieces that never hold all logits, to likelihoods; sums over tokens are not its business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from groundup.model.config import Decoder as Config

IGNORED = -100
"""The target of a position that has none."""

WHOLE = {"cpu": 2**26, "cuda": 2**30}
"""Logits that may stand in memory at once, by kind of device; more are made in pieces, and again in the backward pass."""

PIECE = 2**26
"""Logits of one piece."""


class Head(nn.Module):
    """A linear map to the vocabulary, optionally with soft-capped logits (Gemma 2, 2024), and the likelihoods it gives.

    Args:
        config: gives sizes, soft-cap, and whether the embedding's matrix is used instead of an own one.
    """

    weight: nn.Parameter | None

    def __init__(self, config: Config) -> None:
        super().__init__()
        vocabulary, _ = config.closed()
        self.softcap = config.softcap
        self.register_parameter("weight", None if config.tied else nn.Parameter(torch.empty(vocabulary, config.width)))
        self.likelihood = Likelihood(config.softcap)
        self.gradient = Gradient(config.softcap)

    def compile_(self, **options: Any) -> None:
        """Compile likelihoods and their gradients in place."""
        self.likelihood.compile(**options)
        self.gradient.compile(**options)

    def forward(self, x_BTD: Tensor, targets_BT: Tensor | None = None, tied: Tensor | None = None) -> Any:
        """Logits, or likelihoods of targets.

        Args:
            x_BTD: the normed stream, (..., D).
            targets_BT: ids, (...), -100 where there is none.
            tied: the embedding's matrix, (V, D), for a head without its own.

        Returns:
            Without targets, logits (..., V); else negative log-likelihoods and log-normalisers, (...) fp32 each.
        """
        weight_VD = self.weight if tied is None else tied
        assert weight_VD is not None
        if targets_BT is None:
            return cap(functional.linear(x_BTD, weight_VD), self.softcap)
        x_ND, targets_N = x_BTD.flatten(0, -2), targets_BT.flatten()
        logits = len(x_ND) * len(weight_VD)
        if logits <= WHOLE.get(x_BTD.device.type, PIECE):
            nll_N, log_z_N = self.likelihood(x_ND, weight_VD, targets_N)
        else:
            rows = max(1, PIECE // len(weight_VD))
            nll_N, log_z_N = Pieces.apply(x_ND, weight_VD, targets_N, self, rows)
        return nll_N.view_as(targets_BT), log_z_N.view_as(targets_BT)


class Likelihood(nn.Module):
    """Likelihoods of rows whose logits fit into memory; a module without parameters, so that it can be compiled in place."""

    def __init__(self, softcap: float | None) -> None:
        super().__init__()
        self.softcap = softcap

    def forward(self, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods and log-normalisers, (N,) fp32 each."""
        pair: tuple[Tensor, Tensor] = LogSoftmax.apply(functional.linear(x_ND, weight_VD), targets_N, self.softcap)
        return pair


class Gradient(nn.Module):
    """Gradient of a piece's likelihoods, its logits made anew; without parameters, so that it can be compiled in place."""

    def __init__(self, softcap: float | None) -> None:
        super().__init__()
        self.softcap = softcap

    def forward(
        self, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, log_z_N: Tensor, by_N2: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients by `x_ND` and `weight_VD`; `by_N2` are those by likelihood and log-normaliser."""
        logits_NV = functional.linear(x_ND, weight_VD)
        by_logits_NV = gradient(logits_NV, targets_N, log_z_N, by_N2[:, 0], by_N2[:, 1], self.softcap)
        return by_logits_NV @ weight_VD, by_logits_NV.T @ x_ND


class LogSoftmax(torch.autograd.Function):
    """Likelihoods from logits; keeps the logits in their own dtype and no softmax, which the backward pass makes anew."""

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor, softcap: float | None) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods, zero where there is no target, and log-normalisers: (N,), fp32 at least."""
        capped_NV = cap(logits_NV, softcap)
        log_z_N = capped_NV.logsumexp(dim=-1)
        kept_N = targets_N != IGNORED
        chosen_N = logits_NV.gather(1, targets_N.where(kept_N, 0)[:, None])[:, 0]
        ctx.save_for_backward(logits_NV, targets_N, log_z_N)
        ctx.softcap = softcap
        return (log_z_N - cap(chosen_N, softcap)).where(kept_N, 0.0), log_z_N

    @staticmethod
    def backward(ctx: Any, *by: Tensor) -> tuple[Tensor, None, None]:
        """Gradient by the logits."""
        logits_NV, targets_N, log_z_N = ctx.saved_tensors
        return gradient(logits_NV, targets_N, log_z_N, *by, ctx.softcap), None, None


class Pieces(torch.autograd.Function):
    """Likelihoods by pieces of rows: no more than one piece's logits are ever there, forward or backward."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, head: Head, rows: int
    ) -> tuple[Tensor, Tensor]:
        """Like `Likelihood`, of `rows` rows at a time."""
        ctx.head, ctx.rows, ctx.weight_dtype, ctx.x_dtype = head, rows, weight_VD.dtype, x_ND.dtype
        kind = x_ND.device.type
        ctx.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_ND.dtype
        cast_ND, cast_VD = x_ND.to(ctx.dtype), weight_VD.to(ctx.dtype)
        pairs = [
            head.likelihood(x, cast_VD, targets)
            for x, targets in zip(cast_ND.split(rows), targets_N.split(rows), strict=True)
        ]
        nll_N, log_z_N = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        ctx.save_for_backward(x_ND, weight_VD, targets_N, log_z_N)
        return nll_N, log_z_N

    @staticmethod
    def backward(ctx: Any, *by: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Gradients by the stream and the matrix; the latter is summed over pieces in the matrix's dtype."""
        x_ND, weight_VD, targets_N, log_z_N = ctx.saved_tensors
        cast_ND, cast_VD, by_N2 = x_ND.to(ctx.dtype), weight_VD.to(ctx.dtype), torch.stack(by, dim=1)
        by_x_ND, by_weight_VD = torch.empty_like(x_ND), torch.zeros_like(weight_VD)
        for start in range(0, len(x_ND), ctx.rows):
            piece = slice(start, start + ctx.rows)
            by_x, by_weight = ctx.head.gradient(cast_ND[piece], cast_VD, targets_N[piece], log_z_N[piece], by_N2[piece])
            by_x_ND[piece] = by_x
            by_weight_VD += by_weight
        return by_x_ND, by_weight_VD, None, None, None


def cap(logits: Tensor, softcap: float | None) -> Tensor:
    """cap tanh(logits / cap), or the logits themselves: fp32 at least."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide if softcap is None else softcap * torch.tanh(wide / softcap)


def gradient(
    logits_NV: Tensor, targets_N: Tensor, log_z_N: Tensor, by_nll_N: Tensor, by_log_z_N: Tensor, softcap: float | None
) -> Tensor:
    """Gradient by the logits of -log softmax(cap(logits))[target] and of the log-normaliser, in the logits' dtype."""
    capped_NV = cap(logits_NV, softcap)
    by_nll_N = by_nll_N.where(targets_N != IGNORED, 0.0)
    softmax_NV = (capped_NV - log_z_N[:, None]).exp()
    chosen_NV = torch.arange(logits_NV.shape[1], device=logits_NV.device) == targets_N[:, None]
    by_NV = softmax_NV * (by_nll_N + by_log_z_N)[:, None] - torch.where(chosen_NV, by_nll_N[:, None], 0.0)
    if softcap is not None:
        by_NV = by_NV * (1 - (capped_NV / softcap).square())
    return by_NV.to(logits_NV.dtype)
